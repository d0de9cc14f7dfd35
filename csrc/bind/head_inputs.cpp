#include "backend.h"

namespace tapout::bind {

void head_inputs(const Tensor& ids,         // [T]
                 const Tensor& embedding,   // [V, size]
                 const Tensor& states,      // [T, size]
                 const Tensor& token_norm,  // [size]
                 const Tensor& state_norm,  // [size]
                 double eps,
                 const Tensor& normed) {  // [T, 2 size]
  const Arguments arguments("head_inputs", states);
  HeadInputsParams params = {};
  params.rows = arguments.size("states", states, 2, 0);
  params.size = states.size(1);
  params.eps = static_cast<float>(eps);
  params.states = arguments.floats("states", states, {params.rows, params.size}, &params.dtype);
  const int64_t vocab = params.vocab = arguments.size("embedding", embedding, 2, 0);
  const auto floats = [&](const char* name, const Tensor& tensor, Shape shape) {
    return arguments.floats(name, tensor, shape, params.dtype);
  };
  params.embedding = floats("embedding", embedding, {vocab, params.size});
  params.token_norm = floats("token_norm", token_norm, {params.size});
  params.state_norm = floats("state_norm", state_norm, {params.size});
  params.normed = floats("normed", normed, {params.rows, 2 * params.size});
  params.ids = arguments.input<int64_t>("ids", ids, {params.rows});
  for (int64_t row = 0; row < params.rows; ++row) {
    if (params.ids[row] < 0 || params.ids[row] >= vocab) {
      arguments.fail("ids", "in [0, " + std::to_string(vocab) + ")",
                     std::to_string(params.ids[row]));
    }
  }
  if (params.rows > 0) run(params);
}

}  // namespace tapout::bind

TAPOUT_REGISTER_DECODER(head_inputs)
