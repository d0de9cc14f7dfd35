// The two distributions (pair.cuh) of a slot of verify.
#pragma once

#include "pair.cuh"
#include "verify_request.cuh"

namespace tapout::cuda {

__device__ inline int32_t num_pieces(const Request& request, int32_t slot) {
  const int32_t listed = request.sampling.filtered() ? request.found(slot).listed : 0;
  return num_pieces(request.sampling, request.params.target.vocab, listed);
}

// Of a slot whose target row is not one-hot and whose draft is kSpread.
template <class T>
__device__ inline Pair<T> pair_of(const Request& request, int32_t slot, double factor) {
  const VerifyParams& params = request.params;
  const FoundRow& found = request.found(slot);
  const bool plain = params.draft.dtype == params.target.dtype && !params.t2d;
  return pair_of(target_row<T>(request, slot), draft_row(params, request.b, slot, found.draft),
                 plain, request.sampling, law_of(found), request.own(slot).listed, factor);
}

}  // namespace tapout::cuda
