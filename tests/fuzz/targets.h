/* tests/fuzz/targets.h: every parser of foreign bytes behind one call each. A target takes any
 * bytes, must neither crash, leak nor hang, and returns 0. Run by libFuzzer (preset `fuzz`, one
 * program fuzz_NAME per target) and over the stored inputs by ctest (replay.c). */
#ifndef KIN_TESTS_FUZZ_TARGETS_H
#define KIN_TESTS_FUZZ_TARGETS_H

#include <stddef.h>
#include <stdint.h>

#define KIN_FUZZ_TARGETS(X) \
    X(safetensors)          \
    X(pth)                  \
    X(pickle)               \
    X(npz)                  \
    X(tar)                  \
    X(png)                  \
    X(jpeg)                 \
    X(video)                \
    X(dataset)              \
    X(train_config)         \
    X(model_config)         \
    X(scheduler_config)     \
    X(tokenizer_json)       \
    X(annotation)           \
    X(prompt)

#define KIN_FUZZ_DECLARE(name) int kin_fuzz_##name(const uint8_t *data, size_t bytes);
KIN_FUZZ_TARGETS(KIN_FUZZ_DECLARE)

/* The bytes as a file in memory, for readers that take a path; the path is valid until the next
 * call. NULL: the system refuses. */
const char *kin_fuzz_file(const uint8_t *data, size_t bytes);

#endif
