/* tests/fuzz/entry.c: libFuzzer's entry, compiled once per target. */
#include "tests/fuzz/targets.h"

#define JOIN(a, b) a##b
#define TARGET(name) JOIN(kin_fuzz_, name)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
    return TARGET(KIN_FUZZ_TARGET)(data, bytes);
}
