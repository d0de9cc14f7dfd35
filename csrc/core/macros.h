// Where core code may run and which instruction set it is compiled for.
#pragma once

#include <stdint.h>

#if defined(__CUDACC__)
#define TAPOUT_HD __host__ __device__ inline
#else
#define TAPOUT_HD inline
#endif

// The same headers are compiled once per instruction set. The inline namespace gives each copy its
// own symbols: otherwise the linker may keep one copy, say the AVX-512 one, for every caller.
#ifndef TAPOUT_ISA
#define TAPOUT_ISA baseline
#endif
