/* tensor/rng.h: counter-based noise (Philox4x32-10, Random123). The same key and element give the
 * same bits for any thread count, batch size and ISA level; nothing is carried between calls. */
#ifndef KIN_TENSOR_RNG_H
#define KIN_TENSOR_RNG_H

#include <stdint.h>

/* What a draw is for; part of the key, so that two uses never share numbers. Values are part of the
 * file formats (a checkpoint resumes with them): never renumber. */
typedef enum kin_rng_purpose {
    KIN_RNG_INIT = 1, /* start weights: sample = parameter index */
    KIN_RNG_NOISE =
        2, /* x_1 of sampling or training: sample = global sample index, step = train step */
    KIN_RNG_TIME = 3,     /* training times */
    KIN_RNG_DROPOUT = 4,  /* condition dropout */
    KIN_RNG_MOPA = 5,     /* gate flips */
    KIN_RNG_DATA = 6,     /* order of the data set */
    KIN_RNG_SIMULATE = 7, /* clip simulators: sample = clip index */
    KIN_RNG_SOLVER = 8,   /* noise drawn by stochastic solvers */
    KIN_RNG_VALIDATE = 9, /* fixed noise and times of validation */
    KIN_RNG_FLIP = 10,    /* mirrored training images: sample = global sample index */
    KIN_RNG_CLASS = 11,   /* classes of images: sample = image index */
    KIN_RNG_LATENT = 12,  /* draws from the posterior of cached latents: as NOISE */
    KIN_RNG_TEST = 100
} kin_rng_purpose;

typedef struct kin_rng {
    uint64_t seed;
    kin_rng_purpose purpose;
    uint64_t sample; /* global sample index (clip, image, parameter) */
    uint32_t step;
} kin_rng;

/* Block `block` of four words. */
void kin_rng_block(const kin_rng *r, uint32_t block, uint32_t out[4]);
/* Elements [first, first+n) of the stream: uniform in [0,1) with 24 bits. first+n <= 2^33. */
void kin_rng_uniform(const kin_rng *r, uint64_t first, int64_t n, float *out);
/* Elements [first, first+n) of the stream: standard normal (Box-Muller on our own log and sincos).
 */
void kin_rng_normal(const kin_rng *r, uint64_t first, int64_t n, float *out);
/* One draw, element `i`. */
float kin_rng_uniform_at(const kin_rng *r, uint64_t i);
/* Uniform integer in [0, n), n >= 1, element i (64-bit multiply, bias < 2^-32). */
uint64_t kin_rng_index_at(const kin_rng *r, uint64_t i, uint64_t n);

#endif
