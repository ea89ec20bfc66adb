/* tensor/cpu/isa.c: which vector instructions this machine grants. */
#include <cpuid.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tensor/cpu/cpu.h"

#define ARCH_REQ_XCOMP_PERM_CODE 0x1023
#define XFEATURE_TILEDATA 18

/* Register state the system saves (XCR0); 0 without XSAVE. */
static uint64_t saved_state(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & (1u << 27)))
        return 0;
    unsigned lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return ((uint64_t)hi << 32) | lo;
}

/* AMX tiles for bf16 and bytes present (CPUID.7.EDX bits 22, 24, 25), saved by the system, and
 * granted to this process. */
static bool have_amx(void)
{
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return false;
    const unsigned want = 1u << 22 | 1u << 24 | 1u << 25;
    if ((d & want) != want || (saved_state() & 0x60000) != 0x60000)
        return false;
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM_CODE, XFEATURE_TILEDATA) == 0;
}

static bool have_avx512_bf16(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & (1u << 5));
}

bool kin_isa_have_vnni(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512vnni");
}

kin_isa kin_isa_detect(void)
{
    __builtin_cpu_init();
    uint64_t state = saved_state();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || (state & 0x6) != 0x6)
        return KIN_ISA_NONE;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl") ||
        (state & 0xe6) != 0xe6)
        return KIN_ISA_AVX2;
    return have_amx() ? KIN_ISA_AMX : KIN_ISA_AVX512;
}

bool kin_isa_available(kin_isa isa)
{
    kin_isa have = kin_isa_detect();
    return isa != KIN_ISA_NONE &&
           (isa <= have || (isa == KIN_ISA_AMX_EMULATED && have >= KIN_ISA_AVX512));
}

const char *kin_isa_name(kin_isa isa)
{
    switch (isa) {
    case KIN_ISA_AVX2: return "avx2";
    case KIN_ISA_AVX512: return "avx512";
    case KIN_ISA_AMX_EMULATED: return "amx-emulated";
    case KIN_ISA_AMX: return "amx";
    case KIN_ISA_NONE:
    default: return "none";
    }
}

/* Measured: AMD Zen 4 runs vdpbf16ps at twice the rate of the f32 multiply-add (232 against 116
 * GF/s a core); Intel's server cores at half of it (86 against 175), so there rounded f32 operands
 * are faster. */
bool kin_isa_fast_dot(void)
{
    /* note: asked before every product, and cpuid leaves a virtual machine: thousands of cycles */
    static _Atomic int known; /* 0: not asked yet, 1: no, 2: yes */
    if (known == 0) {
        __builtin_cpu_init();
        known = have_avx512_bf16() && __builtin_cpu_is("amd") ? 2 : 1;
    }
    return known == 2;
}
