/* tensor/cuda/peak.h: what a device could do at most, for shares in reports. */
#ifndef KIN_TENSOR_CUDA_PEAK_H
#define KIN_TENSOR_CUDA_PEAK_H

#ifdef __cplusplus
extern "C" {
#endif

/* Dense bf16 products with f32 sums, operations per second: the figure of NVIDIA's data sheet where
 * the name is known, else multiprocessors x clock x operations of one per cycle. capability: 90 for
 * 9.0. 0: not known. */
double kin_cuda_bf16_peak(const char *name, int capability, int multiprocessors, double clock_hz);

#ifdef __cplusplus
}
#endif

#endif
