/* diffusion/classifier.c: family `classifier`: a small convolutional network that tells classes of
 * images apart: per width a convolution (halving the picture after the first) and a residual one,
 * group norm and SiLU before each but the first, then all pixels into one vector of features and
 * that into a score per class. Its features are what pictures are compared by. */
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/json.h"
#include "diffusion/config.h"
#include "diffusion/family.h"

enum { MAX_STAGES = 8, GROUPS = 8 };

typedef struct norm {
    kin_param *gamma, *beta;
} norm;

typedef struct conv {
    kin_param *w, *b;
} conv;

typedef struct stage {
    norm norm1, norm2; /* the first stage has no norm1 */
    conv conv1, conv2;
} stage;

typedef struct classifier {
    kin_model base;
    int64_t channels, side, features;
    int stages;
    int64_t width[MAX_STAGES];
    stage stage[MAX_STAGES];
    norm last;
    kin_param *feature_w, *feature_b, *head_w, *head_b;
} classifier;

static kin_status parse_widths(const cJSON *j, classifier *m, kin_error *err)
{
    static const int64_t standard[] = {32, 64, 128, 128};
    const cJSON *a = cJSON_GetObjectItemCaseSensitive(j, "widths");
    const int n = cJSON_GetArraySize(a);

    if (!a) {
        m->stages = 4;
        memcpy(m->width, standard, sizeof(standard));
        return KIN_OK;
    }
    if (!cJSON_IsArray(a) || n < 1 || n > MAX_STAGES)
        return kin_fail(err, KIN_ERR_FORMAT, "config: widths must be an array of 1 to %d numbers",
                        (int)MAX_STAGES);
    for (m->stages = 0; m->stages < n; m->stages++) {
        const cJSON *v = cJSON_GetArrayItem(a, m->stages);
        const double w = cJSON_IsNumber(v) ? v->valuedouble : 0;

        if (!(w >= GROUPS && w <= 4096) || (int64_t)w % GROUPS || w != (double)(int64_t)w)
            return kin_fail(err, KIN_ERR_ARG,
                            "config: widths must be multiples of %d between %d and 4096",
                            (int)GROUPS, (int)GROUPS);
        m->width[m->stages] = (int64_t)w;
    }
    return KIN_OK;
}

static kin_status parse_config(const cJSON *j, classifier *m, kin_error *err)
{
    static const char *const known[] = {"_class_name", "input_size",   "in_channels", "num_classes",
                                        "widths",      "feature_size", NULL};
    int64_t classes = 0;

    m->channels = 3;
    m->side = 32;
    m->features = 128;
    KIN_TRY(kin_json_known_keys(j, known, "config", err));
    KIN_TRY(kin_json_get_i64(j, "input_size", 1, 1024, &m->side, err));
    KIN_TRY(kin_json_get_i64(j, "in_channels", 1, 64, &m->channels, err));
    KIN_TRY(kin_json_get_i64(j, "num_classes", 2, 1 << 20, &classes, err));
    KIN_TRY(kin_json_get_i64(j, "feature_size", 1, 4096, &m->features, err));
    KIN_TRY(parse_widths(j, m, err));
    if (classes < 2)
        return kin_fail(err, KIN_ERR_FORMAT, "config: num_classes is missing");
    if (m->side % (1 << (m->stages - 1)))
        return kin_fail(err, KIN_ERR_ARG, "config: input_size %lld must be a multiple of %d",
                        (long long)m->side, 1 << (m->stages - 1));
    m->base.info = (kin_model_info){.family = KIN_FAMILY_CLASSIFIER,
                                    .in_channels = m->channels,
                                    .patch = {1, 1, 1},
                                    .num_classes = classes,
                                    .num_layers = m->stages,
                                    .input_size = m->side,
                                    .inner = m->features};
    return KIN_OK;
}

static void add_norm(kin_params *params, int64_t width, const char *name, norm *n)
{
    n->gamma =
        kin_params_add(params, KIN_INIT(KIN_INIT_ONE, 0), KIN_DIMS(width), "%s.weight", name);
    n->beta = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(width), "%s.bias", name);
}

static void add_conv(kin_params *params, int64_t in, int64_t out, const char *name, conv *c)
{
    c->w = kin_params_add(params, KIN_INIT(KIN_INIT_XAVIER, 1), KIN_DIMS(out, in, 3, 3),
                          "%s.weight", name);
    c->b = kin_params_add(params, KIN_INIT(KIN_INIT_ZERO, 0), KIN_DIMS(out), "%s.bias", name);
}

static kin_status register_all(kin_params *params, classifier *m, kin_error *err)
{
    const kin_init xavier = KIN_INIT(KIN_INIT_XAVIER, 1), zero = KIN_INIT(KIN_INIT_ZERO, 0);
    const int64_t side = m->side >> (m->stages - 1), width = m->width[m->stages - 1];
    char name[64];

    for (int i = 0; i < m->stages; i++) {
        stage *s = &m->stage[i];

        if (i > 0) {
            snprintf(name, sizeof(name), "stages.%d.norm1", i);
            add_norm(params, m->width[i - 1], name, &s->norm1);
        }
        snprintf(name, sizeof(name), "stages.%d.conv1", i);
        add_conv(params, i ? m->width[i - 1] : m->channels, m->width[i], name, &s->conv1);
        snprintf(name, sizeof(name), "stages.%d.norm2", i);
        add_norm(params, m->width[i], name, &s->norm2);
        snprintf(name, sizeof(name), "stages.%d.conv2", i);
        add_conv(params, m->width[i], m->width[i], name, &s->conv2);
    }
    add_norm(params, width, "norm", &m->last);
    m->feature_w = kin_params_add(params, xavier, KIN_DIMS(m->features, side * side * width),
                                  "features.weight");
    m->feature_b = kin_params_add(params, zero, KIN_DIMS(m->features), "features.bias");
    m->head_w = kin_params_add(params, xavier, KIN_DIMS(m->base.info.num_classes, m->features),
                               "head.weight");
    m->head_b = kin_params_add(params, zero, KIN_DIMS(m->base.info.num_classes), "head.bias");
    if (params->failed != KIN_OK)
        return kin_fail(err, params->failed, "classifier: registering parameters failed");
    return KIN_OK;
}

static kin_status norm_act(kin_ctx *ctx, const norm *n, const kin_tensor *x, kin_tensor *y)
{
    return kin_groupnorm(ctx, x, GROUPS, n->gamma, n->beta, KIN_ACT_SILU, 1e-5f, y);
}

static kin_status run_stage(kin_ctx *ctx, const classifier *m, int i, kin_tensor *h)
{
    const stage *s = &m->stage[i];
    const kin_conv_options same = {.top = 1, .bottom = 1, .left = 1, .right = 1};
    kin_conv_options first = same;
    kin_tensor a = *h, b;

    first.stride = i ? 2 : 1;
    if (i > 0)
        KIN_TRY(norm_act(ctx, &s->norm1, h, &a));
    KIN_TRY(kin_conv(ctx, &a, s->conv1.w, s->conv1.b, &first, NULL, &b));
    KIN_TRY(norm_act(ctx, &s->norm2, &b, &a));
    return kin_conv(ctx, &a, s->conv2.w, s->conv2.b, &same, &b, h);
}

static kin_status classifier_forward(kin_ctx *ctx, const kin_model *model,
                                     const kin_model_input *in, kin_model_output *out)
{
    const classifier *m = (const classifier *)model;
    const kin_tensor *x = in->x;
    const int pixel[3] = {1, 1, 1};
    kin_tensor video, h, a;

    if (x->ndim != 4 || x->size[1] != m->channels || x->size[2] != m->side || x->size[3] != m->side)
        return kin_fail(&ctx->error, KIN_ERR_SHAPE, "classifier: x must be [B,%lld,%lld,%lld]",
                        (long long)m->channels, (long long)m->side, (long long)m->side);
    /* channels last */
    video = KIN_RESHAPE(x, x->size[0], m->channels, 1, m->side, m->side);
    KIN_TRY(kin_patchify(ctx, &video, pixel, true, &h));
    h = KIN_RESHAPE(&h, x->size[0], m->side, m->side, m->channels);
    for (int i = 0; i < m->stages; i++)
        KIN_TRY(run_stage(ctx, m, i, &h));
    KIN_TRY(norm_act(ctx, &m->last, &h, &a));
    a = KIN_RESHAPE(&a, x->size[0], -1);
    KIN_TRY(kin_linear_act(ctx, &a, m->feature_w, m->feature_b, KIN_ACT_SILU, &out->y));
    return kin_linear(ctx, &out->y, m->head_w, m->head_b, &out->logits);
}

static void classifier_destroy(kin_model *model)
{
    kin_free(model);
}

kin_status kin_classifier_model_create(const cJSON *config, kin_params *params, kin_model **out,
                                       kin_error *err)
{
    classifier *m = kin_calloc(1, sizeof(*m));
    kin_status status;

    *out = NULL;
    if (!m)
        return kin_fail(err, KIN_ERR_MEM, "classifier: out of memory");
    KIN_GOTO(parse_config(config, m, err));
    m->base.forward = classifier_forward;
    m->base.destroy = classifier_destroy;
    KIN_GOTO(register_all(params, m, err));
    *out = &m->base;
    return KIN_OK;
done:
    kin_free(m);
    return status;
}
