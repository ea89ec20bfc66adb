/* tensor/cpu/simd/conv.c: the transforms of Winograd's F(2x2,3x3) (Lavin and Gray 2016): sums and
 * differences of pixels before 16 products per channel, and of products after them. */
#include "tensor/cpu/simd/simd.h"
#include "tensor/cpu/simd/vec.h"

/* d -> (d0-d2, d1+d2, d2-d1, d1-d3) */
VINL void spread(vf d0, vf d1, vf d2, vf d3, vf out[4])
{
    out[0] = vf_sub(d0, d2);
    out[1] = vf_add(d1, d2);
    out[2] = vf_sub(d2, d1);
    out[3] = vf_sub(d1, d3);
}

void KIN_SIMD(wino_in)(const float *const px[16], int64_t n, float *v, int64_t step)
{
    for (int64_t c = 0; c < n; c += VL) {
        const int64_t m = n - c;
        vf t[4][4]; /* rows done, [column][row] */
        for (int j = 0; j < 4; j++)
            spread(vf_loadn(px[j] + c, m), vf_loadn(px[4 + j] + c, m), vf_loadn(px[8 + j] + c, m),
                   vf_loadn(px[12 + j] + c, m), t[j]);
        for (int i = 0; i < 4; i++) {
            vf r[4];
            spread(t[0][i], t[1][i], t[2][i], t[3][i], r);
            for (int j = 0; j < 4; j++)
                vf_storen(v + (i * 4 + j) * step + c, r[j], m);
        }
    }
}

/* m -> (m0+m1+m2, m1-m2-m3) */
VINL void gather(vf m0, vf m1, vf m2, vf m3, vf out[2])
{
    out[0] = vf_add(vf_add(m0, m1), m2);
    out[1] = vf_sub(vf_sub(m1, m2), m3);
}

void KIN_SIMD(wino_out)(const float *m, int64_t step, int64_t n, const float *bias,
                        const float *const add[4], float *const y[4])
{
    for (int64_t c = 0; c < n; c += VL) {
        const int64_t k = n - c;
        const vf b = bias ? vf_loadn(bias + c, k) : vf_zero();
        vf t[4][2];
        for (int j = 0; j < 4; j++)
            gather(vf_loadn(m + j * step + c, k), vf_loadn(m + (4 + j) * step + c, k),
                   vf_loadn(m + (8 + j) * step + c, k), vf_loadn(m + (12 + j) * step + c, k), t[j]);
        for (int i = 0; i < 2; i++) {
            vf r[2];
            gather(t[0][i], t[1][i], t[2][i], t[3][i], r);
            for (int j = 0; j < 2; j++) {
                const int at = i * 2 + j;
                if (!y[at])
                    continue;
                vf v = vf_add(r[j], b);
                if (add[at])
                    v = vf_add(v, vf_loadn(add[at] + c, k));
                vf_storen(y[at] + c, v, k);
            }
        }
    }
}

/* g -> (g0, (g0+g1+g2)/2, (g0-g1+g2)/2, g2) */
VINL void widen(vf g0, vf g1, vf g2, vf out[4])
{
    const vf half = vf_set(0.5f), even = vf_mul(half, vf_add(g0, g2)), odd = vf_mul(half, g1);
    out[0] = g0;
    out[1] = vf_add(even, odd);
    out[2] = vf_sub(even, odd);
    out[3] = g2;
}

void KIN_SIMD(wino_weight)(const float *g, int64_t n, float *u)
{
    for (int64_t c = 0; c < n; c += VL) {
        const int64_t m = n - c;
        vf t[3][4];
        for (int j = 0; j < 3; j++)
            widen(vf_loadn(g + j * n + c, m), vf_loadn(g + (3 + j) * n + c, m),
                  vf_loadn(g + (6 + j) * n + c, m), t[j]);
        for (int i = 0; i < 4; i++) {
            vf r[4];
            widen(t[0][i], t[1][i], t[2][i], r);
            for (int j = 0; j < 4; j++)
                vf_storen(u + (i * 4 + j) * n + c, r[j], m);
        }
    }
}
