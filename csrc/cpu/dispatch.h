// Picks the instruction set of this process, once.
#pragma once

#include "ops.h"

namespace tapout {

// The best table this machine can run, or the one TAPOUT_CPU_ISA names. Throws std::runtime_error
// if that variable names none that was built and can run here.
const CpuOps& cpu_ops();

}  // namespace tapout
