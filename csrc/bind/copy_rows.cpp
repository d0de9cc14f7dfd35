#include "backend.h"

namespace tapout::bind {

void copy_rows(const Tensor& source,         // [from, size]
               const OptionalTensor& take,   // [count]
               const OptionalTensor& place,  // [count]
               const Tensor& out) {          // [to, size]
  const Arguments arguments("copy_rows", source);
  CopyRowsParams params = {};
  params.from = arguments.size("source", source, 2, 0);
  params.to = arguments.size("out", out, 2, 0);
  params.count = params.from;
  if (take) params.count = arguments.size("take", *take, 1, 0);
  if (place && !take) params.count = arguments.size("place", *place, 1, 0);
  DType dtype;
  const int64_t size = source.size(1);
  params.source = arguments.floats("source", source, {params.from, size}, &dtype);
  params.take = arguments.input<int64_t>("take", take, {params.count});
  params.place = arguments.input<int64_t>("place", place, {params.count});
  params.out = arguments.floats("out", out, {params.to, size}, dtype);
  params.bytes = size * (dtype == DType::kF32 ? 4 : 2);
  if (params.count > 0) run(params);
}

}  // namespace tapout::bind

TAPOUT_REGISTER_DECODER(copy_rows)
