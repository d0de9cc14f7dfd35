// Argument checks of the operators. A caller of torch.ops may pass any tensor: what is checked here
// is all that memory safety needs. Every check comes before the first write.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>

#include "../core/tree_params.h"

namespace tapout::bind {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;
using Shape = std::initializer_list<int64_t>;

template <class T>
struct ScalarTypeOf;
template <>
struct ScalarTypeOf<float> {
  static constexpr ScalarType value = ScalarType::Float;
};
template <>
struct ScalarTypeOf<double> {
  static constexpr ScalarType value = ScalarType::Double;
};
template <>
struct ScalarTypeOf<int32_t> {
  static constexpr ScalarType value = ScalarType::Int;
};
template <>
struct ScalarTypeOf<int64_t> {
  static constexpr ScalarType value = ScalarType::Long;
};
template <>
struct ScalarTypeOf<int8_t> {
  static constexpr ScalarType value = ScalarType::Char;
};
template <>
struct ScalarTypeOf<uint8_t> {
  static constexpr ScalarType value = ScalarType::Byte;
};
template <>
struct ScalarTypeOf<bool> {
  static constexpr ScalarType value = ScalarType::Bool;
};

// Words of a token mask over `vocab` ids.
inline int64_t mask_words(int64_t vocab) { return (vocab + 31) / 32; }

// One operator's arguments, by name. Each function throws std::runtime_error with
// "op: argument must be X, got Y".
class Arguments {
 public:
  // `on` is any tensor of the call: all others must be on its device.
  Arguments(const char* op, const Tensor& on) : op_(op), device_(on.get_device_index()) {}

  [[noreturn]] void fail(const char* name, const std::string& expected,
                         const std::string& got) const;

  // The size of dimension `dim` of a tensor of `dims` dimensions.
  int64_t size(const char* name, const Tensor& tensor, int64_t dims, int64_t dim) const;

  // The data of a contiguous tensor.
  template <class T>
  T* data(const char* name, const Tensor& tensor, Shape shape) const {
    check(name, tensor, ScalarTypeOf<T>::value, shape);
    return static_cast<T*>(tensor.mutable_data_ptr());
  }

  template <class T>
  const T* input(const char* name, const Tensor& tensor, Shape shape) const {
    check(name, tensor, ScalarTypeOf<T>::value, shape);
    return static_cast<const T*>(tensor.const_data_ptr());
  }

  template <class T>
  const T* input(const char* name, const OptionalTensor& tensor, Shape shape) const {
    return tensor ? input<T>(name, *tensor, shape) : nullptr;
  }

  // [B, V] or [B, rows, V]: any strides, but a contiguous vocabulary.
  Logits logits(const char* name, const Tensor& tensor, Shape shape) const;

  // int32 words, one row of them per row of logits; no mask if none is given.
  TokenMask mask(const OptionalTensor& tensor, Shape shape) const;

  // `count`: the rows of the tensors that `rows` points into.
  StateRows rows(const OptionalTensor& rows, int64_t batch, int64_t count) const;

  Sampling sampling(const OptionalTensor& temperature, const OptionalTensor& top_k,
                    const OptionalTensor& top_p, const OptionalTensor& min_p, int64_t states) const;

  // `arm` is [states], or [states, slots] at token level.
  Rules rules(const OptionalTensor& kind, const OptionalTensor& param, const OptionalTensor& arm,
              const OptionalTensor& memory, int64_t states, int64_t slots) const;

  Rule rule(int64_t value) const;

  // Of verify, where the lossy rules are.
  Rule verify_rule(int64_t value) const;

  // `value` if a tree may have so many nodes.
  int64_t nodes(const char* name, int64_t value) const;

  // [B, Q, Q], or bits [B, Q, ceil(Q/32)], with Q = nodes or nodes + 1: any strides, but contiguous
  // columns.
  MaskRows mask_rows(const char* name, const Tensor& tensor, int64_t batch, int64_t nodes) const;

  // `value` if attention has heads of that size.
  int64_t head_dim(const char* name, int64_t value) const;

  // [.., heads, rows, D]: any strides, but contiguous columns. `dtype` is that of the query, the
  // first tensor, and of all after it.
  HeadRows heads(const char* name, const Tensor& tensor, Shape shape, DType* dtype) const;

  // The data of a contiguous tensor of floats, of `dtype` or of any, which `dtype` then says.
  void* floats(const char* name, const Tensor& tensor, Shape shape, DType dtype) const;
  void* floats(const char* name, const Tensor& tensor, Shape shape, DType* dtype) const;

  // Entries of a cache, float32 or of 8 or 16 bits: any strides, but a contiguous last dimension.
  void* entries(const char* name, const Tensor& tensor, Shape shape) const;

  // `value` if it is 0 or 1.
  int64_t choice(const char* name, int64_t value, const char* expected) const;

 private:
  DType float_dtype(const char* name, const Tensor& tensor) const;
  void check(const char* name, const Tensor& tensor, ScalarType dtype, Shape shape) const;
  void check_kind(const char* name, const Tensor& tensor, ScalarType dtype, Shape shape) const;
  void check_last_stride(const char* name, const Tensor& tensor) const;
  void check_device(const char* name, const Tensor& tensor) const;
  void check_shape(const char* name, const Tensor& tensor, Shape shape) const;

  const char* op_;
  int32_t device_;
};

}  // namespace tapout::bind
