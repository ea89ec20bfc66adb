#include "tensor/cuda/peak.h"

#include <ctype.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

/* Words of the name and TFLOP/s. The first that fits counts. From NVIDIA's data sheets of these
 * devices (where those give figures with sparsity: half of them). */
static const struct known {
    const char *name;
    double tflops;
} known[] = {
    {"GB200", 2500},   {"GB300", 2500}, {"B200", 2250},    {"B300", 2250},     {"GH200", 989},
    {"H200 NVL", 835}, {"H200", 989},   {"H100 NVL", 835}, {"H100 PCIe", 756}, {"H100", 989},
    {"H800", 989},     {"H20", 148},    {"L40S", 362},     {"L40", 181},       {"L4", 121},
    {"A100", 312},     {"A800", 312},   {"A40", 149.7},    {"A30", 165},       {"A10", 125},
};

/* True if `words` stand in the name, not as part of longer ones ("A40" is not in "RTX A4000"). */
static bool has_words(const char *name, const char *words)
{
    const char *at = strstr(name, words);
    return at && (at == name || at[-1] == ' ') && !isalnum((unsigned char)at[strlen(words)]);
}

/* Operations per cycle of one multiprocessor with its boost clock as the figures above imply. */
static double per_cycle(int capability)
{
    switch (capability) {
    case 80: return 2048;
    case 90: return 4096;
    case 100: return 8192;
    default: return 0;
    }
}

double kin_cuda_bf16_peak(const char *name, int capability, int multiprocessors, double clock_hz)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (has_words(name, known[i].name))
            return known[i].tflops * 1e12;
    return per_cycle(capability) * multiprocessors * clock_hz;
}
