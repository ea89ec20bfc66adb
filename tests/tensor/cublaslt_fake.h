/* What tests may ask of the stand-in for cublasLt and set on it. KIN_FAKE_REFUSE and KIN_FAKE_FAIL
 * set refuse_every and fail_every from outside. */
#ifndef KIN_TESTS_TENSOR_CUBLASLT_FAKE_H
#define KIN_TESTS_TENSOR_CUBLASLT_FAKE_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kin_fake_lt {
    bool erf;         /* its GELU is the form with erf */
    int refuse_every; /* every n-th product with an epilogue, when an algorithm is asked for; 0:
                         none */
    int fail_every;   /* every n-th launch; 0: none */
    int asked, launched;
    int runs[1024]; /* launches by epilogue (cublasLtEpilogue_t) */
    int tf32;       /* launches in which operands were rounded to TF32 */
} kin_fake_lt;
extern kin_fake_lt kin_fake;

#ifdef __cplusplus
}
#endif

#endif
