#define EPILOGUE_TARGET
#define EPILOGUE_LINKAGE
#define EPILOGUE_NAME KIN_SIMD(epilogue)
#define EPILOGUE_HALF vf_storen_bf16
#include "tensor/cpu/simd/epilogue.h"
