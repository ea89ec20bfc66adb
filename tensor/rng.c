/* tensor/rng.c: counter-based noise on Philox4x32-10 (Salmon et al., "Parallel random numbers: as
 * easy as 1, 2, 3", SC11; Random123's C header) and Box-Muller normals on our own logarithm and
 * sine, in double, with additions, products, one division and one square root only: IEEE fixes
 * every bit, whatever the compiler makes of the loops (this file is compiled without contraction
 * into fused products).
 *
 * counter = {block, step, sample low, sample high}
 * key     = {seed low  ^ purpose * 0x9E3779B9, seed high ^ purpose * 0xBB67AE85}, products modulo
 * 2^32 Element 4b + j of a stream comes from block b alone. */
#include "tensor/rng.h"

#include <string.h>

#include "tensor/rng_normal.h"

enum { CHUNK = 64 }; /* blocks made at once; loops over it have a fixed length and vectorise */

void kin_rng_block(const kin_rng *r, uint32_t block, uint32_t out[4])
{
    philox4x32_ctr_t ctr = {{block, r->step, (uint32_t)r->sample, (uint32_t)(r->sample >> 32)}};
    philox4x32_ctr_t words = philox4x32_R(10, ctr, kin_rng_key(r));
    memcpy(out, words.v, sizeof(words.v));
}

static inline float to_uniform(uint32_t w)
{
    return (float)(int32_t)(w >> 8) * 0x1p-24f;
}

/* The words of CHUNK blocks from `block` on, word j of block b in words[j][b]. */
static void chunk_words(const kin_rng *r, uint32_t block, uint32_t words[4][CHUNK])
{
    philox4x32_key_t key = kin_rng_key(r);
    for (int b = 0; b < CHUNK; b++) {
        philox4x32_ctr_t ctr = {
            {block + (uint32_t)b, r->step, (uint32_t)r->sample, (uint32_t)(r->sample >> 32)}};
        philox4x32_ctr_t w = philox4x32_R(10, ctr, key);
        for (int j = 0; j < 4; j++)
            words[j][b] = w.v[j];
    }
}

typedef void (*chunk_fn)(uint32_t words[4][CHUNK], float out[4 * CHUNK]);

static void chunk_uniform(uint32_t words[4][CHUNK], float out[4 * CHUNK])
{
    for (int b = 0; b < CHUNK; b++) {
        for (int j = 0; j < 4; j++)
            out[4 * b + j] = to_uniform(words[j][b]);
    }
}

static void chunk_normal(uint32_t words[4][CHUNK], float out[4 * CHUNK])
{
    float n[4][CHUNK];
    for (int b = 0; b < CHUNK; b++)
        kin_rng_box_muller(words[0][b], words[1][b], &n[0][b], &n[1][b]);
    for (int b = 0; b < CHUNK; b++)
        kin_rng_box_muller(words[2][b], words[3][b], &n[2][b], &n[3][b]);
    for (int b = 0; b < CHUNK; b++) {
        for (int j = 0; j < 4; j++)
            out[4 * b + j] = n[j][b];
    }
}

static void fill(const kin_rng *r, uint64_t first, int64_t n, float *out, chunk_fn make)
{
    uint32_t words[4][CHUNK];
    float chunk[4 * CHUNK];
    while (n > 0) {
        uint64_t skip = first % 4;
        int64_t take = 4 * CHUNK - (int64_t)skip;
        if (take > n)
            take = n;
        chunk_words(r, (uint32_t)(first / 4), words);
        make(words, chunk);
        memcpy(out, chunk + skip, (size_t)take * sizeof(float));
        out += take;
        first += (uint64_t)take;
        n -= take;
    }
}

void kin_rng_uniform(const kin_rng *r, uint64_t first, int64_t n, float *out)
{
    fill(r, first, n, out, chunk_uniform);
}

void kin_rng_normal(const kin_rng *r, uint64_t first, int64_t n, float *out)
{
    fill(r, first, n, out, chunk_normal);
}

float kin_rng_uniform_at(const kin_rng *r, uint64_t i)
{
    uint32_t words[4];
    kin_rng_block(r, (uint32_t)(i / 4), words);
    return to_uniform(words[i % 4]);
}

uint64_t kin_rng_index_at(const kin_rng *r, uint64_t i, uint64_t n)
{
    uint32_t words[4];
    /* two words of a block per draw: the bias stays below n / 2^64 */
    kin_rng_block(r, (uint32_t)(i / 2), words);
    uint64_t w = (uint64_t)words[2 * (i % 2) + 1] << 32 | words[2 * (i % 2)];
    return (uint64_t)(((unsigned __int128)w * n) >> 64);
}
