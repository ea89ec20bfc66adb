/* tensor/ref/loss.c: mean square and mean absolute error, binary cross-entropy on logits,
 * cross-entropy. */
#include "tensor/ref/ref.h"

static double row_weight(const kin_loss_args *a, int64_t b)
{
    return kin_ref_has(a->weight) ? kin_ref_load(a->weight, b * a->weight->stride[0]) : 1;
}

/* What the sum is divided by: MSE and L1 all elements, BCE elements of rows that count,
 * cross-entropy such rows. */
static double divisor(const kin_loss_args *a)
{
    int64_t rows = 0;
    if (a->kind == KIN_LOSS_MSE || a->kind == KIN_LOSS_L1)
        return (double)(a->x->size[0] * a->x->size[1]);
    for (int64_t b = 0; b < a->x->size[0]; b++)
        rows += row_weight(a, b) != 0;
    return (double)(a->kind == KIN_LOSS_BCE_LOGITS ? rows * a->x->size[1] : rows);
}

static double row_lse(const kin_tensor *x, int64_t b)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < x->size[1]; j++)
        largest = fmax(largest, kin_ref_get2(x, b, j));
    for (int64_t j = 0; j < x->size[1]; j++)
        sum += exp(kin_ref_get2(x, b, j) - largest);
    return largest + log(sum);
}

static double row_loss(const kin_loss_args *a, int64_t b)
{
    double sum = 0;
    if (a->kind == KIN_LOSS_CROSS_ENTROPY) {
        int64_t target = (int64_t)kin_ref_load(a->target, b * a->target->stride[0]);
        return row_lse(a->x, b) - kin_ref_get2(a->x, b, target);
    }
    for (int64_t j = 0; j < a->x->size[1]; j++) {
        double x = kin_ref_get2(a->x, b, j), t = kin_ref_get2(a->target, b, j);
        if (a->kind == KIN_LOSS_MSE)
            sum += (x - t) * (x - t) * row_weight(a, b);
        else if (a->kind == KIN_LOSS_L1)
            sum += fabs(x - t) * row_weight(a, b);
        else
            sum += fmax(x, 0) - x * t + log1p(exp(-fabs(x)));
    }
    return sum;
}

kin_status kin_ref_loss(kin_ctx *ctx, const kin_loss_args *a)
{
    double sum = 0, by = divisor(a);
    (void)ctx;
    for (int64_t b = 0; b < a->x->size[0]; b++) {
        if (row_weight(a, b) != 0)
            sum += row_loss(a, b);
    }
    kin_ref_put(a->loss, 0, by > 0 ? sum / by : 0, false);
    return KIN_OK;
}

kin_status kin_ref_loss_bwd(kin_ctx *ctx, const kin_loss_args *a)
{
    double by = divisor(a), dloss = kin_ref_load(a->dloss, 0);
    (void)ctx;
    for (int64_t b = 0; b < a->x->size[0]; b++) {
        double weight = row_weight(a, b), lse = 0;
        int64_t target = -1;
        if (a->kind == KIN_LOSS_CROSS_ENTROPY) {
            lse = row_lse(a->x, b);
            target = (int64_t)kin_ref_load(a->target, b * a->target->stride[0]);
        }
        for (int64_t j = 0; j < a->x->size[1]; j++) {
            double x = kin_ref_get2(a->x, b, j), g;
            if (a->kind == KIN_LOSS_CROSS_ENTROPY)
                g = exp(x - lse) - (j == target);
            else if (a->kind == KIN_LOSS_MSE)
                g = 2 * (x - kin_ref_get2(a->target, b, j)) * weight;
            else if (a->kind == KIN_LOSS_L1)
                g = (double)((x > kin_ref_get2(a->target, b, j)) -
                             (x < kin_ref_get2(a->target, b, j))) *
                    weight;
            else
                g = kin_ref_act(KIN_ACT_SIGMOID, x) - kin_ref_get2(a->target, b, j);
            kin_ref_put2(a->dx, b, j, weight != 0 ? dloss * g / by : 0, a->acc);
        }
    }
    return KIN_OK;
}
