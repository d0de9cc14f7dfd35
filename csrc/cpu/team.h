// Threads, as the kernels see them: a function that runs body(context, worker, i) for every i in
// [0, n), in any order, and a piece of scratch memory per worker. The bindings supply it.
#pragma once

#include <stdint.h>

#include "../core/macros.h"

namespace tapout {

struct Team {
  int64_t workers;
  void (*run)(int64_t n, void (*body)(void* context, int64_t worker, int64_t i), void* context);
  char* scratch;
  int64_t scratch_stride;
};

inline namespace TAPOUT_ISA {

inline Team alone(const Team& team, int64_t worker) {
  return {1, nullptr, team.scratch + worker * team.scratch_stride, team.scratch_stride};
}

// body(worker, i) for every i in [0, n).
template <class Body>
inline void for_each(const Team& team, int64_t n, const Body& body) {
  if (team.workers == 1 || n == 1) {
    for (int64_t i = 0; i < n; ++i) body(0, i);
    return;
  }
  const auto call = [](void* context, int64_t worker, int64_t i) {
    (*static_cast<const Body*>(context))(worker, i);
  };
  team.run(n, call, const_cast<Body*>(&body));
}

// body(team, row) for every row: a worker per row where rows abound, else all workers in each row.
template <class Body>
inline void for_each_row(const Team& team, int64_t rows, const Body& body) {
  if (rows < 2 * team.workers) {
    for (int64_t row = 0; row < rows; ++row) body(team, row);
    return;
  }
  for_each(team, rows, [&](int64_t worker, int64_t row) { body(alone(team, worker), row); });
}

}  // namespace TAPOUT_ISA
}  // namespace tapout
