// The operators on a GPU: the device and stream of the call, and scratch memory that outlives it.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <stdexcept>
#include <utility>
#include <vector>

#include "../cuda/ops.h"
#include "backend.h"

namespace tapout::bind {
namespace {

using cuda::Queue;
using cuda::Workspace;
using cuda::WorkspaceSize;

#ifdef TAPOUT_EMULATED
struct DeviceGuard {
  explicit DeviceGuard(int32_t) {}
};

bool on_device(const Tensor& tensor) { return tensor.is_cpu(); }

cudaStream_t current_stream(int32_t) { return nullptr; }

template <class Launch>
cudaError_t launched(Workspace scratch, WorkspaceSize size, const Launch& launch) {
  emulator_forget(scratch.bytes, size.bytes);
  const cudaError_t error = launch();
  return error == cudaSuccess ? emulator_check_tickets(scratch.tickets, size.tickets) : error;
}
#else
using torch::stable::accelerator::DeviceGuard;

bool on_device(const Tensor& tensor) { return tensor.is_cuda(); }

cudaStream_t current_stream(int32_t device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

template <class Launch>
cudaError_t launched(Workspace, WorkspaceSize, const Launch& launch) {
  return launch();
}
#endif

bool capturing(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(stream, &status) == cudaSuccess &&
         status != cudaStreamCaptureStatusNone;
}

int multiprocessors(int32_t device) {
  int count = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return error == cudaSuccess ? count : 1;  // results do not depend on it
}

// Memory of one stream, as large as its largest call so far.
struct Arena {
  Tensor bytes;
  Tensor tickets;
  bool captured = false;

  Arena(const Tensor& on, WorkspaceSize size)
      : bytes(torch::stable::new_empty(on, {size.bytes}, ScalarType::Byte)),
        tickets(torch::stable::new_empty(on, {size.tickets}, ScalarType::Int)) {
    torch::stable::zero_(tickets);
  }

  WorkspaceSize size() const { return {bytes.numel(), tickets.numel()}; }
  Workspace workspace() const {
    return {static_cast<char*>(bytes.mutable_data_ptr()),
            static_cast<uint32_t*>(tickets.mutable_data_ptr())};
  }
};

struct Arenas {
  std::mutex mutex;  // held while a call launches: its kernels follow each other on the stream
  std::map<std::pair<int32_t, cudaStream_t>, Arena> of_stream;
  std::vector<Arena> kept;  // captured graphs point into them
};

// Never destroyed: torch may be gone by then.
Arenas& arenas() {
  static Arenas& all = *new Arenas;
  return all;
}

bool holds(WorkspaceSize has, WorkspaceSize wanted) {
  return wanted.bytes <= has.bytes && wanted.tickets <= has.tickets;
}

WorkspaceSize larger(WorkspaceSize left, WorkspaceSize right) {
  return {std::max(left.bytes, right.bytes), std::max(left.tickets, right.tickets)};
}

void retire(Arenas& all, std::pair<int32_t, cudaStream_t> key) {
  const auto found = all.of_stream.find(key);
  if (found == all.of_stream.end()) return;
  if (found->second.captured) all.kept.push_back(found->second);
  all.of_stream.erase(found);
}

// While a graph is captured memory cannot be added to the stream's: what `warmup` did not provide
// is allocated for this call alone, and its tickets are cleared in the graph.
template <class Launch>
cudaError_t with_workspace(const Tensor& on, WorkspaceSize wanted, const Launch& launch) {
  const int32_t device = on.get_device_index();
  const DeviceGuard guard(device);
  const cudaStream_t stream = current_stream(device);
  const std::pair<int32_t, cudaStream_t> key(device, stream);
  Arenas& all = arenas();
  const std::lock_guard<std::mutex> lock(all.mutex);
  auto found = all.of_stream.find(key);
  const bool fits = found != all.of_stream.end() && holds(found->second.size(), wanted);
  const bool in_capture = capturing(stream);
  const Queue queue = {stream, multiprocessors(device)};
  if (!fits && in_capture) return launch(Arena(on, wanted).workspace(), queue);
  if (!fits) {
    if (found != all.of_stream.end()) wanted = larger(wanted, found->second.size());
    Arena grown(on, wanted);
    retire(all, key);
    found = all.of_stream.emplace(key, std::move(grown)).first;
  }
  Arena& arena = found->second;
  arena.captured = arena.captured || in_capture;
  const cudaError_t error = launch(arena.workspace(), queue);
  if (error != cudaSuccess) retire(all, key);  // its tickets may have been left anyhow
  return error;
}

template <class Params>
void call(const char* op, const Params& params, WorkspaceSize (*size)(const Params&),
          cudaError_t (*launch)(const Params&, Workspace, Queue), const Tensor& on) {
  const WorkspaceSize wanted = size(params);
  const cudaError_t error =
      with_workspace(on, wanted, [&](const Workspace& workspace, const Queue& queue) {
        return launched(workspace, wanted, [&] { return launch(params, workspace, queue); });
      });
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string(op) + ": CUDA error: " + cudaGetErrorString(error));
  }
}

}  // namespace

const char* const kDevice = "one cuda device";

bool is_here(const Tensor& tensor, int32_t device) {
  return on_device(tensor) && tensor.get_device_index() == device;
}

void run(const RowStatsParams& params, const Tensor& on) {
  call("row_stats", params, cuda::row_stats_workspace, cuda::row_stats, on);
}

void run(const SampleParams& params, const Tensor& on) {
  call("sample", params, cuda::sample_workspace, cuda::sample, on);
}

void run(const ProposalResetParams& params, const Tensor& on) {
  call("proposal_reset", params, cuda::proposal_reset_workspace, cuda::proposal_reset, on);
}

void run(const ProposalLoadParams& params, const Tensor& on) {
  call("proposal_load", params, cuda::proposal_load_workspace, cuda::proposal_load, on);
}

void run(const DraftStepParams& params, const Tensor& on) {
  call("draft_step", params, cuda::draft_step_workspace, cuda::draft_step, on);
}

void run(const VerifyParams& params, const Tensor& on) {
  call("verify", params, cuda::verify_workspace, cuda::verify, on);
}

void run(const BanditSelectParams& params, const Tensor& on) {
  call("bandit_select", params, cuda::bandit_select_workspace, cuda::bandit_select, on);
}

void run(const BanditUpdateParams& params, const Tensor& on) {
  call("bandit_update", params, cuda::bandit_update_workspace, cuda::bandit_update, on);
}

void run(const BanditUpdateParams& update, const BanditSelectParams& select, const Tensor& on) {
  const cuda::BanditStepParams params = {update, select};
  call("bandit_step", params, cuda::bandit_step_workspace, cuda::bandit_step, on);
}

void run(const TreeLayoutParams& params, const Tensor& on) {
  call("tree_layout", params, cuda::tree_layout_workspace, cuda::tree_layout, on);
}

void run(const TreeMaskParams& params, const Tensor& on) {
  call("tree_mask", params, cuda::tree_mask_workspace, cuda::tree_mask, on);
}

void run(const TreeMaskFlatParams& params, const Tensor& on) {
  call("tree_mask_flat", params, cuda::tree_mask_flat_workspace, cuda::tree_mask_flat, on);
}

void run(const CompactKvParams& params, const Tensor& on) {
  call("compact_kv", params, cuda::compact_kv_workspace, cuda::compact_kv, on);
}

void run(const TreeVerifyParams& params, const Tensor& on) {
  call("tree_verify", params, cuda::tree_verify_workspace, cuda::tree_verify, on);
}

void run(const TreeRerankParams& params, const Tensor& on) {
  call("tree_rerank", params, cuda::tree_rerank_workspace, cuda::tree_rerank, on);
}

void run(const TreeExpandParams& params, const Tensor& on) {
  call("tree_expand", params, cuda::tree_expand_workspace, cuda::tree_expand, on);
}

}  // namespace tapout::bind
