#include "dispatch.h"

#include <stdlib.h>

#include <stdexcept>
#include <string>
#include <vector>

#if defined(TAPOUT_HAS_AVX2) || defined(TAPOUT_HAS_AVX512)
#include <cpuid.h>
#endif

namespace tapout {

namespace scalar {
const CpuOps& ops_table();
}
#ifdef TAPOUT_HAS_AVX2
namespace avx2 {
const CpuOps& ops_table();
}
#endif
#ifdef TAPOUT_HAS_AVX512
namespace avx512 {
const CpuOps& ops_table();
}
#endif
#ifdef TAPOUT_HAS_AVX512_BF16
namespace avx512_bf16 {
const CpuOps& ops_table();
}
#endif

namespace {

#ifdef TAPOUT_HAS_AVX2
bool runs_avx2() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool f16c = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
  return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}
#endif

#ifdef TAPOUT_HAS_AVX512
bool runs_avx512() {
  return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#endif

// Best last.
std::vector<const CpuOps*> available() {
  std::vector<const CpuOps*> tables = {&scalar::ops_table()};
#ifdef TAPOUT_HAS_AVX2
  if (runs_avx2()) tables.push_back(&avx2::ops_table());
#endif
#ifdef TAPOUT_HAS_AVX512
  if (runs_avx512()) tables.push_back(&avx512::ops_table());
#endif
#ifdef TAPOUT_HAS_AVX512_BF16
  if (runs_avx512() && __builtin_cpu_supports("avx512bf16")) {
    tables.push_back(&avx512_bf16::ops_table());
  }
#endif
  return tables;
}

struct Selection {
  const CpuOps* ops;
  std::string error;
};

Selection select() {
  const std::vector<const CpuOps*> tables = available();
  const char* wanted = getenv("TAPOUT_CPU_ISA");
  if (!wanted || !*wanted) return {tables.back(), ""};
  std::string names;
  for (const CpuOps* table : tables) {
    if (table->isa == std::string(wanted)) return {table, ""};
    names += (names.empty() ? "" : ", ") + std::string(table->isa);
  }
  return {nullptr, "TAPOUT_CPU_ISA must be one of " + names +
                       " (built, and supported by this processor), got " + wanted};
}

const Selection& selection() {
  static const Selection chosen = select();
  return chosen;
}

}  // namespace

const CpuOps& cpu_ops() {
  if (!selection().ops) throw std::runtime_error(selection().error);
  return *selection().ops;
}

}  // namespace tapout

// For Python, through ctypes: the instruction set in use, and why there is none ("" if there is).
#define TAPOUT_EXPORT extern "C" __attribute__((visibility("default")))

TAPOUT_EXPORT const char* tapout_cpu_isa() {
  return tapout::selection().ops ? tapout::selection().ops->isa : "";
}

TAPOUT_EXPORT const char* tapout_cpu_error() { return tapout::selection().error.c_str(); }
