/* tests/support/near.h: the comparers of all tests. A comparison first refuses anything that is not
 * finite, then bounds the largest error and the normalised mean square error. Environment:
 * KIN_TOL_SCALE multiplies every bound (0 makes each comparison fail and print its residuals). */
#ifndef KIN_TESTS_NEAR_H
#define KIN_TESTS_NEAR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tensor/tensor.h"

/* |got - want| <= scale * (length * eps_acc + eps_out), scale = max(largest |want|, scale_min), and
 * sum (got-want)^2 <= (4 (sqrt(length) eps_acc + eps_out))^2 * max(sum want^2, n scale_min^2). */
typedef struct kin_near_bound {
    double length;    /* terms added up in one result */
    double eps_acc;   /* rounding of one addition */
    double eps_out;   /* rounding of the result and of functions */
    double scale_min; /* size of results that cancel to nothing */
} kin_near_bound;

/* f32 accumulation over `length` terms, each of size `term` (0: the results themselves give the
 * scale). */
kin_near_bound kin_near_f32(double length, double term);

/* True when got is near want (same shape; any dtypes). why[bytes] receives what is wrong, else the
 * residuals. */
bool kin_near_tensor(const kin_tensor *got, const kin_tensor *want, kin_near_bound bound, char *why,
                     size_t bytes);
/* |got - want| <= atol + rtol |want| for n floats; non-finite values fail. */
bool kin_near_floats(const float *got, const float *want, int64_t n, double atol, double rtol,
                     char *why, size_t bytes);
/* True when both hold the same bits in every element. */
bool kin_near_same_bits(const kin_tensor *got, const kin_tensor *want, char *why, size_t bytes);
/* |a - b| <= rtol * max(|a|, |b|) + atol, both finite: directional derivatives. */
bool kin_near_value(double a, double b, double rtol, double atol);

/* KIN_SEED, or a fixed number; printed on first use. */
uint64_t kin_test_seed(void);

#endif
