# Flags and the two building blocks of the project: kin_room (one static library per folder) and kin_test.
include(CheckCCompilerFlag)

add_library(kin_flags INTERFACE)
target_include_directories(kin_flags INTERFACE ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/include)
target_compile_definitions(kin_flags INTERFACE _GNU_SOURCE KIN_VERSION="${PROJECT_VERSION}")
# note: nvcc reads -Werror in a way of its own
target_compile_options(kin_flags INTERFACE
  "$<$<NOT:$<COMPILE_LANGUAGE:CUDA>>:-Wall;-Wextra;-Wshadow;-Werror;-fno-math-errno>"
  $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith>)
if(KIN_NATIVE)
  target_compile_options(kin_flags INTERFACE -march=native)
endif()
if(KIN_SANITIZE)
  target_compile_options(kin_flags INTERFACE -fsanitize=${KIN_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(kin_flags INTERFACE -fsanitize=${KIN_SANITIZE})
  target_compile_definitions(kin_flags INTERFACE KIN_SANITIZED) # tests that measure memory or time look at it
  # gcc's flow warnings are wrong in instrumented code (the other builds keep them)
  if(CMAKE_C_COMPILER_ID STREQUAL "GNU")
    target_compile_options(kin_flags INTERFACE -Wno-format-truncation -Wno-maybe-uninitialized
      -Wno-stringop-overflow -Wno-stringop-truncation)
  endif()
endif()

# kin_room(name DEPS libs...): library kin_<name> from <name>/*.c (and *.cc shims); cli/main.c stays out.
# tensor also takes tensor/ref, tensor/cpu, and builds tensor/cpu/simd/*.c once per ISA level.
function(kin_room name)
  cmake_parse_arguments(R "" "" "DEPS" ${ARGN})
  file(GLOB src CONFIGURE_DEPENDS ${name}/*.c ${name}/*.cc)
  if(name STREQUAL "tensor")
    file(GLOB more CONFIGURE_DEPENDS tensor/ref/*.c tensor/cpu/*.c tensor/plan/*.c)
    list(APPEND src ${more})
    if(NOT KIN_CUDA)
      list(APPEND src tensor/cuda/none.c tensor/cuda/peak.c)
    endif()
  endif()
  list(FILTER src EXCLUDE REGEX "cli/main\\.c$")
  if(NOT src)
    file(WRITE ${CMAKE_BINARY_DIR}/empty_${name}.c "extern int kin_empty_${name};\nint kin_empty_${name};\n")
    set(src ${CMAKE_BINARY_DIR}/empty_${name}.c)
  endif()
  add_library(kin_${name} STATIC ${src})
  target_link_libraries(kin_${name} PUBLIC ${R_DEPS} PRIVATE kin_flags)
  if(name STREQUAL "tensor")
    file(GLOB simd CONFIGURE_DEPENDS tensor/cpu/simd/*.c)
    if(simd)
      kin_simd(avx2 "-mavx2;-mfma;-mf16c" ${simd})
      kin_simd(avx512 "-mavx2;-mfma;-mf16c;-mavx512f;-mavx512bw;-mavx512dq;-mavx512vl;-mprefer-vector-width=512" ${simd})
    endif()
    if(KIN_CUDA)
      kin_cuda_sources(kin_tensor)
    endif()
    # the normal draws must have the same bits on every ISA level and compiler
    set_source_files_properties(tensor/rng.c PROPERTIES COMPILE_OPTIONS "-ffp-contract=off")
  endif()
endfunction()

# One build of the simd sources: functions are named through KIN_SIMD(name) -> kin_<isa>_<name>.
function(kin_simd isa flags)
  add_library(kin_simd_${isa} OBJECT ${ARGN})
  target_compile_definitions(kin_simd_${isa} PRIVATE KIN_SIMD_ISA=${isa})
  target_compile_options(kin_simd_${isa} PRIVATE ${flags} -O3)
  target_link_libraries(kin_simd_${isa} PRIVATE kin_flags OpenMP::OpenMP_C)
  target_sources(kin_tensor PRIVATE $<TARGET_OBJECTS:kin_simd_${isa}>)
endfunction()

# The CUDA backend as sources of a target: kernels by nvcc, the rest as C.
function(kin_cuda_sources target)
  file(GLOB cu CONFIGURE_DEPENDS tensor/cuda/*.cu)
  target_sources(${target} PRIVATE ${cu} tensor/cuda/call.c tensor/cuda/lt.c tensor/cuda/offload.c tensor/cuda/peak.c
    tensor/cuda/resident.c tensor/cuda/staging.c tensor/cuda/table.c)
  # cuDNN: its headers here, the library itself is loaded when the program runs
  if(KIN_CUDNN_INCLUDE)
    target_sources(${target} PRIVATE tensor/cuda/cudnn_plan.c tensor/cuda/cudnn_graphs.c tensor/cuda/cudnn_calls.c)
    target_include_directories(${target} PRIVATE ${KIN_CUDNN_INCLUDE})
    target_link_libraries(${target} PRIVATE ${CMAKE_DL_LIBS})
  else()
    target_sources(${target} PRIVATE tensor/cuda/cudnn_none.c)
  endif()
  # the normal draws must have the CPU's bits
  set_source_files_properties(tensor/cuda/optim.cu PROPERTIES COMPILE_OPTIONS "--fmad=false")
  set_target_properties(${target} PROPERTIES CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
  target_include_directories(${target} PRIVATE ${RANDOM123_INC} ${CUDAToolkit_INCLUDE_DIRS})
  target_link_libraries(${target} PRIVATE CUDA::cudart_static CUDA::cublasLt)
endfunction()

# The same backend on an emulated device, for tests without a GPU: the kernels' own text compiled as C++, with
# tensor/cuda/emulate/ in place of CUDA. Object files, so that they come before what kin_tensor has of these names:
# target_sources(test PRIVATE $<TARGET_OBJECTS:kin_cuda_emulated>).
function(kin_cuda_emulation)
  file(GLOB cu CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tensor/cuda/*.cu)
  list(FILTER cu EXCLUDE REGEX "/(gpu|library|rate)\\.cu$")
  file(GLOB src CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tensor/cuda/emulate/*.cc)
  foreach(name call cudnn_none offload resident staging table)
    list(APPEND src ${CMAKE_SOURCE_DIR}/tensor/cuda/${name}.c)
  endforeach()
  foreach(f ${cu})
    get_filename_component(name ${f} NAME_WE)
    file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/emulated/${name}.cc CONTENT "#include \"tensor/cuda/${name}.cu\"\n")
    list(APPEND src ${CMAKE_BINARY_DIR}/emulated/${name}.cc)
  endforeach()
  add_library(kin_cuda_emulated OBJECT EXCLUDE_FROM_ALL ${src})
  target_compile_definitions(kin_cuda_emulated PRIVATE KIN_EMULATED)
  target_compile_options(kin_cuda_emulated PRIVATE -ffp-contract=off
    $<$<COMPILE_LANGUAGE:CXX>:-Wno-unknown-pragmas -Wno-unused-function>)
  target_include_directories(kin_cuda_emulated PRIVATE ${RANDOM123_INC})
  target_link_libraries(kin_cuda_emulated PRIVATE kin_flags)
endfunction()

# kin_test(room name [LABEL fast|long] [TIMEOUT s]): tests/<room>/<name>.c, a cmocka program.
function(kin_test room name)
  cmake_parse_arguments(T "" "LABEL;TIMEOUT" "ARGS;LIBS" ${ARGN})
  if(NOT T_LABEL)
    set(T_LABEL fast)
  endif()
  if(NOT T_TIMEOUT)
    set(T_TIMEOUT 300)
  endif()
  add_executable(${name} ${room}/${name}.c)
  target_link_libraries(${name} PRIVATE kin_${room} kin_test_support ${T_LIBS} kin_flags PkgConfig::CMOCKA)
  add_test(NAME ${room}.${name} COMMAND ${name} ${T_ARGS})
  # threads that spin while they wait starve each other where tests share the cores
  set_tests_properties(${room}.${name} PROPERTIES LABELS ${T_LABEL} TIMEOUT ${T_TIMEOUT}
    ENVIRONMENT "OMP_WAIT_POLICY=passive;KINEMA_CALIBRATION=none")
endfunction()
