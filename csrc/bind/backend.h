// What a library does with checked parameters: cpu.cpp in _C, cuda.cpp in _C_cuda. Everything else
// of the bindings is compiled into both.
#pragma once

#include "../core/decoder_params.h"
#include "checks.h"

namespace tapout::bind {

// Whether the kernels can run on this tensor of a call on `device`.
bool is_here(const Tensor& tensor, int32_t device);
extern const char* const kDevice;  // how errors name where that is

// `on`: a tensor of the call; all of them are on its device.
void run(const RowStatsParams& params, const Tensor& on);
void run(const SampleParams& params, const Tensor& on);
void run(const ProposalResetParams& params, const Tensor& on);
void run(const ProposalLoadParams& params, const Tensor& on);
void run(const DraftStepParams& params, const Tensor& on);
void run(const VerifyParams& params, const Tensor& on);
void run(const BanditSelectParams& params, const Tensor& on);
void run(const BanditUpdateParams& params, const Tensor& on);
void run(const BanditUpdateParams& update, const BanditSelectParams& select, const Tensor& on);
void run(const TreeLayoutParams& params, const Tensor& on);
void run(const TreeMaskParams& params, const Tensor& on);
void run(const TreeMaskFlatParams& params, const Tensor& on);
void run(const CompactKvParams& params, const Tensor& on);
void run(const TreeVerifyParams& params, const Tensor& on);
void run(const TreeRerankParams& params, const Tensor& on);
void run(const TreeExpandParams& params, const Tensor& on);

// The cpu library's alone.
void run(const TreeAttentionParams& params, const Tensor& on);
void run(const LinearParams& params);
void run(const RmsNormParams& params);
void run(const CopyRowsParams& params);
void run(const HeadInputsParams& params);
void run(const DecoderLayerParams& params);

}  // namespace tapout::bind

// An operator of the engine's decoder: it has no other kernel.
#define TAPOUT_REGISTER_DECODER(op) \
  STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) { m.impl(#op, TORCH_BOX(&tapout::bind::op)); }

// The function tapout::bind::op as the kernel of its operator. The emulated CUDA library stands
// behind the overload alone: its tensors are the host's.
#if defined(TAPOUT_EMULATED)
#define TAPOUT_REGISTER(op)                            \
  STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) {  \
    m.impl(#op ".cuda", TORCH_BOX(&tapout::bind::op)); \
  }
#elif defined(TAPOUT_FOR_CUDA)
#define TAPOUT_REGISTER(op)                            \
  STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CUDA, m) { \
    m.impl(#op, TORCH_BOX(&tapout::bind::op));         \
    m.impl(#op ".cuda", TORCH_BOX(&tapout::bind::op)); \
  }
#else
#define TAPOUT_REGISTER(op)                           \
  STABLE_TORCH_LIBRARY_IMPL(tapout_kernels, CPU, m) { \
    m.impl(#op, TORCH_BOX(&tapout::bind::op));        \
    m.impl(#op ".cpu", TORCH_BOX(&tapout::bind::op)); \
  }
#endif
