/* Low-precision products: weights kept in bf16 beside f32 arithmetic (the bits of f32 panels at
 * half the memory), and products in 8-bit integers against their definition in tensor/ref/. */
#include <math.h>
#include <string.h>

#include "tests/tensor/rig.h"

typedef struct shape {
    int64_t m, n, k;
} shape;

#define EACH_LEVEL(isa)                                         \
    for (kin_isa isa = KIN_ISA_AVX2; isa <= KIN_ISA_AMX; isa++) \
        if (kin_isa_available(isa))

/* The same values as p (any dtype) in f32, as a parameter of its own. */
static kin_param *widened(rig *r, const kin_param *p)
{
    kin_error err = {0};
    pair copy = rig_out(r, KIN_DTYPE_F32, false, 0, p->value.ndim, p->value.size);
    kin_param *q = kin_params_add(r->params, KIN_INIT(KIN_INIT_ZERO, 0), p->value.ndim,
                                  p->value.size, "wide%d", r->params->count);
    for (int64_t i = 0; i < kin_tensor_numel(&p->value); i++)
        kin_tensor_set(&copy.t[0], i, kin_tensor_get(&p->value, i));
    assert_non_null(q);
    assert_ok(kin_params_bind(q, &copy.t[0], &err), &err);
    return q;
}

/* --- weights kept in bf16 --- */

static size_t pack_bytes(const kin_param *p)
{
    size_t n = 0;
    for (const kin_pack *pack = p->packs; pack; pack = pack->next)
        n += pack->bytes;
    return n;
}

static void kept_in_bf16(rig *r, shape s)
{
    rig_begin(r, "bf16 weights m=%d n=%d k=%d", (int)s.m, (int)s.n, (int)s.k);
    kin_tensor x = rig_in(r, 1, 3, KIN_DIMS(s.m, s.k)), dy = rig_in(r, 1, 0, KIN_DIMS(s.m, s.n));
    kin_param *w = rig_param(r, KIN_DTYPE_BF16, 1, false, KIN_DIMS(s.n, s.k)).p[1];
    kin_param *wide = widened(r, w);
    pair y = rig_out(r, KIN_DTYPE_F32, false, 1, KIN_DIMS(s.m, s.n));
    pair dx = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.k));
    for (int side = 0; side < 2; side++) {
        kin_linear_args a = {.m = s.m,
                             .n = s.n,
                             .k = s.k,
                             .x = &x,
                             .w = side ? wide : w,
                             .act = KIN_ACT_SILU,
                             .y = &y.t[side]};
        kin_linear_bwd_args g = {
            .m = s.m, .n = s.n, .k = s.k, .dy = &dy, .w = side ? wide : w, .dx = &dx.t[side]};
        RIG_CALL(r, 1, linear, &a);
        /* whole panels of bf16 (AMX: whole tiles of k), 64 spare bytes */
        if (side == 0 &&
            pack_bytes(w) > (size_t)((s.n + 31) / 32 * 32 * ((s.k + 31) / 32 * 32) * 2 + 64))
            RIG_FAIL(r, "%zu bytes of packed weights", pack_bytes(w));
        RIG_CALL(r, 1, linear_dx, &g);
    }
    rig_same(r, "y", &y.t[0], &y.t[1]);
    rig_same(r, "dx", &dx.t[0], &dx.t[1]);
    rig_end(r);
}

static void weights_in_bf16(void **state)
{
    static const shape shapes[] = {{1, 1, 1},    {3, 16, 64},  {17, 97, 131}, {129, 256, 64},
                                   {65, 33, 31}, {2, 17, 600}, {16, 49, 48},  {31, 63, 1030}};
    (void)state;
    EACH_LEVEL(isa)
    {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            rig r;
            rig_open(&r, isa, bf16 ? KIN_DTYPE_BF16 : KIN_DTYPE_F32, KIN_PRECISION_HIGHEST);
            for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
                kept_in_bf16(&r, shapes[i]);
            rig_close(&r);
        }
    }
}

/* --- 8-bit integers --- */

typedef struct variant {
    kin_dtype weights;
    kin_act act;
    bool bias, residual, gate;
} variant;

static const variant variants[] = {{KIN_DTYPE_F32, KIN_ACT_NONE, false, false, false},
                                   {KIN_DTYPE_BF16, KIN_ACT_GELU_TANH, true, false, false},
                                   {KIN_DTYPE_F16, KIN_ACT_NONE, true, true, true},
                                   {KIN_DTYPE_F32, KIN_ACT_SILU, true, false, false}};
enum { VARIANTS = sizeof(variants) / sizeof(variants[0]) };

static void against_ref(rig *r, shape s, variant v)
{
    rig_begin(r, "int8 m=%d n=%d k=%d w=%s act=%d", (int)s.m, (int)s.n, (int)s.k,
              kin_dtype_name(v.weights), v.act);
    kin_tensor x = rig_in(r, 3, 1, KIN_DIMS(s.m, s.k));
    kin_tensor res = rig_in(r, 1, 0, KIN_DIMS(s.m, s.n)), gate = rig_in(r, 1, 0, KIN_DIMS(1, s.n));
    param_pair w = rig_param(r, v.weights, 0.1, false, KIN_DIMS(s.n, s.k));
    param_pair b = rig_param(r, KIN_DTYPE_F32, 1, false, KIN_DIMS(s.n));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 2, KIN_DIMS(s.m, s.n));
    pair pre = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.n));
    for (int side = 0; side < 2; side++) {
        w.p[side]->int8 = true;
        kin_linear_args a = {.m = s.m,
                             .n = s.n,
                             .k = s.k,
                             .x = &x,
                             .w = w.p[side],
                             .b = v.bias ? b.p[side] : NULL,
                             .act = v.act,
                             .residual = v.residual ? &res : NULL,
                             .gate = v.gate ? &gate : NULL,
                             .pre = v.act ? &pre.t[side] : NULL,
                             .y = &y.t[side]};
        RIG_CALL(r, side, linear, &a);
    }
    /* the sums are integers: what is left are the roundings of the factors and of the epilogue */
    kin_near_bound bound = kin_near_f32(8, 1);
    if (v.act) {
        rig_near(r, "pre", &pre, bound);
        bound.eps_out = 0x1p-20;
    }
    rig_near(r, "y", &y, bound);
    rig_end(r);
}

static void int8_linear(void **state)
{
    static const shape shapes[] = {{1, 64, 64},   {17, 97, 131},  {129, 256, 64}, {65, 65, 66},
                                   {16, 64, 257}, {31, 96, 2051}, {3, 64, 4100}};
    (void)state;
    EACH_LEVEL(isa)
    {
        rig r;
        rig_open(&r, isa, KIN_DTYPE_I8, KIN_PRECISION_HIGHEST);
        for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
            for (int v = 0; v < VARIANTS; v++)
                against_ref(&r, shapes[i], variants[v]);
        rig_close(&r);
    }
}

/* Bits do not depend on threads, on other rows, nor (sums below 2^24) on the level. */
static void int8_same_bits(void **state)
{
    enum { M = 45, N = 96, K = 200 };
    static float first[M * N];
    (void)state;
    EACH_LEVEL(isa)
    {
        rig r;
        rig_open(&r, isa, KIN_DTYPE_I8, KIN_PRECISION_HIGHEST);
        r.sample = 0; /* the same numbers at every level */
        rig_begin(&r, "int8 bits");
        kin_tensor x = rig_in(&r, 1, 0, KIN_DIMS(M, K));
        param_pair w = rig_param(&r, KIN_DTYPE_F32, 1, false, KIN_DIMS(N, K));
        w.p[1]->int8 = true;
        pair y = rig_out(&r, KIN_DTYPE_F32, false, 0, KIN_DIMS(M, N));
        kin_linear_args a = {.m = M, .n = N, .k = K, .x = &x, .w = w.p[1], .b = NULL, .y = &y.t[0]};
        RIG_CALL(&r, 1, linear, &a);
        a.y = &y.t[1];
        RIG_CALL_ONE(&r, linear, &a);
        rig_same(&r, "one thread", &y.t[1], &y.t[0]);
        for (int64_t row = 0; row < M; row += 13) {
            kin_tensor xs = kin_tensor_slice(&x, 0, row, 1);
            kin_tensor ys = kin_tensor_slice(&y.t[1], 0, row, 1);
            kin_tensor want = kin_tensor_slice(&y.t[0], 0, row, 1);
            a.m = 1;
            a.x = &xs;
            a.y = &ys;
            memset(ys.data, 0xff, N * sizeof(float));
            RIG_CALL(&r, 1, linear, &a);
            rig_same(&r, "a row alone", &ys, &want);
        }
        if (isa == KIN_ISA_AVX2)
            memcpy(first, y.t[0].data, sizeof(first));
        else
            assert_memory_equal(first, y.t[0].data, sizeof(first));
        rig_end(&r);
        rig_close(&r);
    }
}

/* Rows of zeros, of tiny and of huge numbers; a row that is not finite spoils itself alone. */
static void int8_edges(void **state)
{
    enum { M = 6, N = 64, K = 96 };
    (void)state;
    EACH_LEVEL(isa)
    {
        rig r;
        rig_open(&r, isa, KIN_DTYPE_I8, KIN_PRECISION_HIGHEST);
        rig_begin(&r, "int8 edges");
        pair x = rig_out(&r, KIN_DTYPE_F32, true, 0, KIN_DIMS(M, K));
        param_pair w = rig_param(&r, KIN_DTYPE_F32, 1, false, KIN_DIMS(N, K));
        pair y = rig_out(&r, KIN_DTYPE_F32, false, 0, KIN_DIMS(M, N));
        float *v = x.t[0].data;
        for (int c = 0; c < K; c++) {
            v[c] = 0;
            v[K + c] *= 1e-34f;
            v[2 * K + c] *= 1e30f;
        }
        v[3 * K + 95] = NAN;
        v[4 * K + 17] = -INFINITY;
        for (int side = 0; side < 2; side++) {
            w.p[side]->int8 = true;
            kin_linear_args a = {
                .m = M, .n = N, .k = K, .x = &x.t[0], .w = w.p[side], .y = &y.t[side]};
            RIG_CALL(&r, side, linear, &a);
        }
        const float *got = y.t[1].data;
        for (int c = 0; c < N; c++) {
            assert_true(got[c] == 0 && got[N + c] == 0);
            assert_true(isnan(got[3 * N + c]) && isnan(got[4 * N + c]));
        }
        static const int finite[] = {2, 5};
        for (int i = 0; i < 2; i++) {
            pair row = {.t = {kin_tensor_slice(&y.t[0], 0, finite[i], 1),
                              kin_tensor_slice(&y.t[1], 0, finite[i], 1)}};
            rig_near(&r, "finite row", &row, kin_near_f32(8, 0));
        }
        rig_end(&r);
        rig_close(&r);
    }
}

/* Small products and matrices that no model named stay in f32. */
static void int8_left_out(void **state)
{
    static const shape shapes[] = {{5, 96, 96}, {5, 63, 96}, {5, 96, 63}};
    (void)state;
    EACH_LEVEL(isa)
    {
        rig r, f;
        rig_open(&r, isa, KIN_DTYPE_I8, KIN_PRECISION_HIGHEST);
        rig_open(&f, isa, KIN_DTYPE_F32, KIN_PRECISION_HIGHEST);
        for (int i = 0; i < 3; i++) {
            shape s = shapes[i];
            rig_begin(&r, "int8 left out n=%d k=%d", (int)s.n, (int)s.k);
            kin_tensor x = rig_in(&r, 1, 0, KIN_DIMS(s.m, s.k));
            kin_param *w = rig_param(&r, KIN_DTYPE_F32, 1, false, KIN_DIMS(s.n, s.k)).p[1];
            pair y = rig_out(&r, KIN_DTYPE_F32, false, 0, KIN_DIMS(s.m, s.n));
            w->int8 = i > 0;
            kin_linear_args a = {.m = s.m, .n = s.n, .k = s.k, .x = &x, .w = w, .y = &y.t[0]};
            RIG_CALL(&r, 1, linear, &a);
            a.y = &y.t[1];
            RIG_CALL(&f, 1, linear, &a);
            rig_same(&r, "y", &y.t[0], &y.t[1]);
            rig_end(&r);
        }
        rig_close(&r);
        rig_close(&f);
    }
}

/* --- experts --- */

enum { EXPERTS = 4, TOKENS = 50, EN = 80, EK = 72 };

/* Expert e gets tokens e, e+3, ...; the third none. order and offset by hand. */
static void route(rig *r, kin_dispatch *d, int64_t slots)
{
    pair order = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(TOKENS * slots));
    pair offset = rig_out(r, KIN_DTYPE_I32, false, 0, KIN_DIMS(EXPERTS + 1));
    int32_t *o = order.t[0].data, *at = offset.t[0].data;
    static const int64_t expert_of[3] = {0, 1, 3};
    *d = (kin_dispatch){.tokens = TOKENS,
                        .slots = slots,
                        .groups = EXPERTS,
                        .rows = TOKENS * slots,
                        .order = order.t[0],
                        .offset = offset.t[0]};
    at[0] = 0;
    for (int64_t e = 0; e < EXPERTS; e++) {
        at[e + 1] = at[e];
        for (int64_t i = 0; i < TOKENS * slots; i++)
            if (expert_of[i % 3] == e)
                o[at[e + 1]++] = (int32_t)i;
    }
}

static void experts(rig *r, bool gather, int64_t slots, kin_dtype weights)
{
    kin_dispatch d;
    kin_param *w[2][EXPERTS], *b[2][EXPERTS];
    int64_t rows = TOKENS * slots;
    rig_begin(r, "experts gather=%d slots=%d w=%s", gather, (int)slots, kin_dtype_name(weights));
    route(r, &d, slots);
    kin_tensor x = rig_in(r, 1, 0, KIN_DIMS(gather ? TOKENS : rows, EK));
    pair y = rig_out(r, KIN_DTYPE_F32, false, 0, KIN_DIMS(rows, EN));
    for (int e = 0; e < EXPERTS; e++) {
        param_pair we = rig_param(r, weights, 0.1, false, KIN_DIMS(EN, EK));
        param_pair be = rig_param(r, KIN_DTYPE_F32, 1, false, KIN_DIMS(EN));
        for (int side = 0; side < 2; side++) {
            w[side][e] = we.p[side];
            b[side][e] = be.p[side];
            w[side][e]->int8 = true;
        }
    }
    for (int side = 0; side < 2; side++) {
        kin_grouped_args a = {.n = EN,
                              .k = EK,
                              .d = &d,
                              .gather = gather,
                              .x = &x,
                              .w = w[side],
                              .b = b[side],
                              .act = KIN_ACT_GELU_TANH,
                              .y = &y.t[side]};
        RIG_CALL(r, side, grouped, &a);
    }
    kin_near_bound bound = kin_near_f32(r->ctx[0]->compute == KIN_DTYPE_I8 ? 8 : EK, 1);
    bound.eps_out = 0x1p-20;
    rig_near(r, "y", &y, bound);
    rig_end(r);
}

static void experts_low(void **state)
{
    (void)state;
    EACH_LEVEL(isa)
    {
        for (int int8 = 0; int8 < 2; int8++) {
            rig r;
            rig_open(&r, isa, int8 ? KIN_DTYPE_I8 : KIN_DTYPE_F32, KIN_PRECISION_HIGHEST);
            for (int64_t slots = 1; slots <= 2; slots++) {
                experts(&r, true, slots, KIN_DTYPE_BF16);
                experts(&r, false, slots, KIN_DTYPE_BF16);
                experts(&r, true, slots, KIN_DTYPE_F32);
            }
            rig_close(&r);
        }
    }
}

/* Attention under int8 is that of bf16. */
static void int8_attention(void **state)
{
    (void)state;
    EACH_LEVEL(isa)
    {
        rig r, h;
        rig_open(&r, isa, KIN_DTYPE_I8, KIN_PRECISION_HIGHEST);
        rig_open(&h, isa, KIN_DTYPE_BF16, KIN_PRECISION_HIGHEST);
        rig_begin(&r, "attention under int8");
        kin_tensor q = rig_in(&r, 1, 0, KIN_DIMS(2, 9, 2, 16));
        pair o = rig_out(&r, KIN_DTYPE_F32, false, 0, KIN_DIMS(2, 9, 2, 16));
        pair p = rig_out(&r, KIN_DTYPE_F32, false, 0, KIN_DIMS(2, 9, 2, 16));
        kin_attention_args a = {.q = &q, .k = &q, .v = &q, .scale = 0.25f};
        for (int side = 0; side < 2; side++) {
            a.o = &o.t[side];
            RIG_CALL(&r, side, attention, &a);
            a.o = &p.t[side];
            RIG_CALL(&h, side, attention, &a);
            rig_same(&r, "o", &o.t[side], &p.t[side]);
        }
        rig_end(&r);
        rig_close(&r);
        rig_close(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_in_bf16), cmocka_unit_test(int8_linear),
        cmocka_unit_test(int8_same_bits),  cmocka_unit_test(int8_edges),
        cmocka_unit_test(int8_left_out),   cmocka_unit_test(experts_low),
        cmocka_unit_test(int8_attention)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
