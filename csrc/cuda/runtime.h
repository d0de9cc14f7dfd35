// CUDA's types and runtime calls, or their twins where kernels are compiled for the host. Launchers
// and bindings include this; kernels include device.h.
#pragma once

#if defined(TAPOUT_EMULATED)
#include "emulated_runtime.h"
#else
#include <cuda_runtime_api.h>
#endif
