#include "checks.h"

#include <stdexcept>

#include "backend.h"

namespace tapout::bind {
namespace {

constexpr int64_t kMostIds = 1 << 22;  // the masses of more could exceed 64-bit integers

std::string dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return "float32";
    case ScalarType::Double: return "float64";
    case ScalarType::Half: return "float16";
    case ScalarType::BFloat16: return "bfloat16";
    case ScalarType::Int: return "int32";
    case ScalarType::Long: return "int64";
    case ScalarType::Bool: return "bool";
    case ScalarType::Byte: return "uint8";
    case ScalarType::Char: return "int8";
    default: return torch::headeronly::toString(dtype);
  }
}

template <class Sizes>
std::string list(const Sizes& sizes) {
  std::string out;
  for (const int64_t size : sizes) out += (out.empty() ? "" : ", ") + std::to_string(size);
  return "[" + out + "]";
}

template <class Left, class Right>
bool equal(const Left& left, const Right& right) {
  if (left.size() != right.size()) return false;
  auto it = right.begin();
  for (const int64_t size : left) {
    if (size != *it++) return false;
  }
  return true;
}

}  // namespace

void Arguments::fail(const char* name, const std::string& expected, const std::string& got) const {
  throw std::runtime_error(std::string(op_) + ": " + name + " must be " + expected + ", got " +
                           got);
}

void Arguments::check_device(const char* name, const Tensor& tensor) const {
  if (!is_here(tensor, device_)) fail(name, std::string("on ") + kDevice, "another device");
}

void Arguments::check_shape(const char* name, const Tensor& tensor, Shape shape) const {
  if (!equal(shape, tensor.sizes())) fail(name, list(shape), list(tensor.sizes()));
}

int64_t Arguments::size(const char* name, const Tensor& tensor, int64_t dims, int64_t dim) const {
  if (tensor.dim() != dims) {
    fail(name, "of " + std::to_string(dims) + " dimensions", list(tensor.sizes()));
  }
  return tensor.size(dim);
}

void Arguments::check_kind(const char* name, const Tensor& tensor, ScalarType dtype,
                           Shape shape) const {
  check_device(name, tensor);
  if (tensor.scalar_type() != dtype) {
    fail(name, dtype_name(dtype), dtype_name(tensor.scalar_type()));
  }
  check_shape(name, tensor, shape);
}

void Arguments::check_last_stride(const char* name, const Tensor& tensor) const {
  const int64_t last = tensor.dim() - 1;
  if (tensor.size(last) > 1 && tensor.stride(last) != 1) {
    fail(name, "contiguous in its last dimension", "stride " + std::to_string(tensor.stride(last)));
  }
}

void Arguments::check(const char* name, const Tensor& tensor, ScalarType dtype, Shape shape) const {
  check_kind(name, tensor, dtype, shape);
  if (!tensor.is_contiguous()) fail(name, "contiguous", "strides " + list(tensor.strides()));
}

DType Arguments::float_dtype(const char* name, const Tensor& tensor) const {
  switch (tensor.scalar_type()) {
    case ScalarType::Float: return DType::kF32;
    case ScalarType::BFloat16: return DType::kBf16;
    case ScalarType::Half: return DType::kF16;
    default: fail(name, "float32 or bfloat16 or float16", dtype_name(tensor.scalar_type()));
  }
}

Logits Arguments::logits(const char* name, const Tensor& tensor, Shape shape) const {
  check_device(name, tensor);
  Logits out = {};
  out.dtype = float_dtype(name, tensor);
  check_shape(name, tensor, shape);
  const int64_t last = tensor.dim() - 1;
  out.vocab = tensor.size(last);
  if (out.vocab < 1) fail(name, "not empty", list(tensor.sizes()));
  if (out.vocab > kMostIds) fail(name, "of at most 4194304 ids", list(tensor.sizes()));
  check_last_stride(name, tensor);
  out.data = tensor.const_data_ptr();
  out.batch_stride = tensor.stride(0);
  out.row_stride = last == 2 ? tensor.stride(1) : 0;
  return out;
}

TokenMask Arguments::mask(const OptionalTensor& tensor, Shape shape) const {
  if (!tensor) return {};
  check_kind("token_mask", *tensor, ScalarType::Int, shape);
  check_last_stride("token_mask", *tensor);
  const int64_t last = tensor->dim() - 1, words = tensor->size(last);
  return {static_cast<const int32_t*>(tensor->const_data_ptr()), tensor->stride(0),
          last == 2 ? tensor->stride(1) : 0, words};
}

StateRows Arguments::rows(const OptionalTensor& rows, int64_t batch, int64_t count) const {
  return {input<int32_t>("rows", rows, {batch}), rows ? count : batch};
}

Sampling Arguments::sampling(const OptionalTensor& temperature, const OptionalTensor& top_k,
                             const OptionalTensor& top_p, const OptionalTensor& min_p,
                             int64_t states) const {
  return {input<float>("temperature", temperature, {states}),
          input<int32_t>("top_k", top_k, {states}), input<float>("top_p", top_p, {states}),
          input<float>("min_p", min_p, {states})};
}

Rules Arguments::rules(const OptionalTensor& kind, const OptionalTensor& param,
                       const OptionalTensor& arm, const OptionalTensor& memory, int64_t states,
                       int64_t slots) const {
  if (!kind) return {};
  if (!param) fail("rule_param", "given with rule_kind", "None");
  if (!arm) fail("arm", "given with rule_kind", "None");
  if (!memory) fail("memory", "given with rule_kind", "None");
  const int64_t arms = size("rule_kind", *kind, 1, 0);
  const bool per_slot = arm->dim() == 2;
  return {
      input<int32_t>("rule_kind", kind, {arms}),
      input<float>("rule_param", param, {arms, kRuleParams}),
      per_slot ? input<int32_t>("arm", arm, {states, slots}) : input<int32_t>("arm", arm, {states}),
      input<float>("memory", memory, {states, arms, kRuleParams}),
      arms,
      per_slot ? slots : 1};
}

Rule Arguments::rule(int64_t value) const {
  if (value < 0 || value > static_cast<int32_t>(Rule::kGreedy)) {
    fail("rule", "0 (token), 1 (block), 2 (gumbel) or 3 (greedy)", std::to_string(value));
  }
  return static_cast<Rule>(value);
}

Rule Arguments::verify_rule(int64_t value) const {
  if (value < 0 || value > static_cast<int32_t>(Rule::kLossyAdaSd)) {
    fail("rule", "0 to 8", std::to_string(value));
  }
  return static_cast<Rule>(value);
}

int64_t Arguments::nodes(const char* name, int64_t value) const {
  if (value < 1 || value > kMostNodes) fail(name, "of 1 to 1024 nodes", std::to_string(value));
  return value;
}

MaskRows Arguments::mask_rows(const char* name, const Tensor& tensor, int64_t batch,
                              int64_t nodes) const {
  check_device(name, tensor);
  MaskRows out = {};
  switch (tensor.scalar_type()) {
    case ScalarType::Int: out.type = MaskType::kBits; break;
    case ScalarType::Bool: out.type = MaskType::kBool; break;
    case ScalarType::Float: out.type = MaskType::kF32; break;
    case ScalarType::BFloat16: out.type = MaskType::kBf16; break;
    case ScalarType::Half: out.type = MaskType::kF16; break;
    default: fail(name, "bool, int32 or a float of logits", dtype_name(tensor.scalar_type()));
  }
  out.rows = size(name, tensor, 3, 1) == nodes + 1 ? nodes + 1 : nodes;
  const int64_t columns = out.type == MaskType::kBits ? mask_words(out.rows) : out.rows;
  check_shape(name, tensor, {batch, out.rows, columns});
  check_last_stride(name, tensor);
  out.data = tensor.mutable_data_ptr();
  out.batch_stride = tensor.stride(0);
  out.row_stride = tensor.stride(1);
  return out;
}

int64_t Arguments::head_dim(const char* name, int64_t value) const {
  if (value < 1 || value > kMostHeadDim) {
    fail(name, "of heads of 1 to 256 numbers", std::to_string(value));
  }
  return value;
}

HeadRows Arguments::heads(const char* name, const Tensor& tensor, Shape shape, DType* dtype) const {
  check_device(name, tensor);
  const DType found = float_dtype(name, tensor);
  if (std::string(name) == "query") *dtype = found;
  if (found != *dtype) fail(name, "of query's dtype", dtype_name(tensor.scalar_type()));
  check_shape(name, tensor, shape);
  check_last_stride(name, tensor);
  return {tensor.const_data_ptr(), tensor.stride(0), tensor.stride(1), tensor.stride(2)};
}

void* Arguments::floats(const char* name, const Tensor& tensor, Shape shape, DType* dtype) const {
  check_device(name, tensor);
  *dtype = float_dtype(name, tensor);
  check(name, tensor, tensor.scalar_type(), shape);
  return tensor.mutable_data_ptr();
}

void* Arguments::floats(const char* name, const Tensor& tensor, Shape shape, DType dtype) const {
  DType found;
  void* data = floats(name, tensor, shape, &found);
  if (found != dtype) fail(name, "of the first tensor's dtype", dtype_name(tensor.scalar_type()));
  return data;
}

void* Arguments::entries(const char* name, const Tensor& tensor, Shape shape) const {
  check_device(name, tensor);
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
    case ScalarType::BFloat16:
    case ScalarType::Half:
    case ScalarType::Float8_e4m3fn:
    case ScalarType::Float8_e5m2:
    case ScalarType::Byte:
    case ScalarType::Char: break;
    default: fail(name, "float32 or a type of 8 or 16 bits", dtype_name(tensor.scalar_type()));
  }
  check_shape(name, tensor, shape);
  for (const int64_t size : shape) {
    if (size < 1) fail(name, "not empty", list(tensor.sizes()));
  }
  check_last_stride(name, tensor);
  return tensor.mutable_data_ptr();
}

int64_t Arguments::choice(const char* name, int64_t value, const char* expected) const {
  if (value != 0 && value != 1) fail(name, expected, std::to_string(value));
  return value;
}

}  // namespace tapout::bind
