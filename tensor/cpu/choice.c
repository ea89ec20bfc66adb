/* tensor/cpu/choice.c: expert choice: which tokens of a pool each expert takes. The k best of a
 * column are found by their bits, eight at a time, in four passes. */
#include <omp.h>
#include <string.h>

#include "tensor/cpu/cpu.h"
#include "tensor/ref/ref.h"

/* A column of a matrix: tokens [t0, t1) of one expert. */
typedef struct column {
    const float *x;
    int64_t ld, t0, t1;
} column;

static column column_of(const kin_tensor *m, int64_t e, int64_t t0, int64_t t1)
{
    return (column){kin_f32(m) + e, kin_ld(m), t0, t1};
}

/* Bits that are ordered as the numbers are; both zeros alike. */
static uint32_t order_bits(float x)
{
    uint32_t u;
    x += 0.0f;
    memcpy(&u, &x, sizeof(u));
    return u >> 31 ? ~u : u | 0x80000000u;
}

/* Bits of the k-th largest value; *ties: how many of the values equal to it are among the k. */
static uint32_t kth_bits(const column *c, int64_t k, int64_t *ties)
{
    uint32_t prefix = 0, mask = 0;
    int64_t left = k;
    for (int shift = 24; shift >= 0; shift -= 8) {
        int64_t count[256] = {0};
        int digit = 255;
        for (int64_t t = c->t0; t < c->t1; t++) {
            uint32_t u = order_bits(c->x[t * c->ld]);
            if ((u & mask) == prefix)
                count[u >> shift & 255]++;
        }
        while (digit > 0 && count[digit] < left)
            left -= count[digit--];
        prefix |= (uint32_t)digit << shift;
        mask |= 255u << shift;
    }
    *ties = left;
    return prefix;
}

static int64_t count_above(const column *gate, float threshold)
{
    int64_t n = 0;
    for (int64_t t = gate->t0; t < gate->t1; t++)
        n += gate->x[t * gate->ld] > threshold;
    return n;
}

static void put(const kin_choose_args *a, int64_t t, int64_t e, bool takes)
{
    ((int32_t *)a->idx->data)[t * kin_ld(a->idx) + e] = takes ? (int32_t)e : -1;
    kin_f32(a->w)[t * kin_ld(a->w) + e] =
        takes ? kin_f32(a->scores)[t * kin_ld(a->scores) + e] : 0.0f;
}

/* What expert e takes of the tokens [t0, t1). */
static void choose_column(const kin_choose_args *a, int64_t e, int64_t t0, int64_t t1)
{
    const column score = column_of(a->scores, e, t0, t1);
    const bool gated = a->rule != KIN_TAKE_TOP;
    const column gate = gated ? column_of(a->gate, e, t0, t1) : score;
    const float threshold = gated ? kin_f32(a->threshold)[e * a->threshold->stride[0]] : 0.0f;
    int64_t k = a->k, ties = 0;
    uint32_t last = 0;
    if (a->rule == KIN_TAKE_ABOVE) {
        for (int64_t t = t0; t < t1; t++)
            put(a, t, e, gate.x[t * gate.ld] > threshold);
        return;
    }
    if (a->rule == KIN_TAKE_COUNT)
        k = count_above(&gate, threshold);
    if (k > 0)
        last = kth_bits(&score, k, &ties);
    for (int64_t t = t0; t < t1; t++) {
        uint32_t u = order_bits(score.x[t * score.ld]);
        put(a, t, e, k > 0 && (u > last || (u == last && ties-- > 0)));
    }
}

/* The k-th largest gate of expert e. */
static void rank_column(const kin_choose_args *a, int64_t e, int64_t t0, int64_t t1)
{
    const column gate = column_of(a->gate, e, t0, t1);
    int64_t ties;
    uint32_t bits = kth_bits(&gate, a->k, &ties);
    bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
    memcpy(kin_f32(a->kth) + e * a->kth->stride[0], &bits, sizeof(bits));
}

static bool null_pool(const kin_choose_args *a, int64_t p)
{
    return a->null && a->null->data &&
           ((const uint8_t *)a->null->data)[p * a->null->stride[0]] != 0;
}

kin_status kin_cpu_choose(kin_ctx *ctx, const kin_choose_args *a)
{
    if (!kin_is_f32(a->scores))
        return kin_ref_choose(ctx, a);
    const int64_t tokens = a->scores->size[0], experts = a->scores->size[1];
    const int64_t per = tokens / a->pools;
#pragma omp parallel for num_threads(kin_cpu_threads(ctx, 16 * tokens * experts)) schedule(static)
    for (int64_t i = 0; i < a->pools * experts; i++) {
        const int64_t p = i / experts, e = i % experts, t0 = p * per, t1 = t0 + per;
        if (!null_pool(a, p)) {
            choose_column(a, e, t0, t1);
            if (a->kth && a->kth->data)
                rank_column(a, e, t0, t1);
            continue;
        }
        for (int64_t t = t0; t < t1; t++) {
            ((int32_t *)a->idx->data)[t * kin_ld(a->idx) + e] =
                e == 0 ? (int32_t)a->null_expert : -1;
            kin_f32(a->w)[t * kin_ld(a->w) + e] = e == 0 ? 1.0f : 0.0f;
        }
    }
    return KIN_OK;
}
