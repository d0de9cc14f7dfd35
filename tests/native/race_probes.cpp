// Some kernels of tests/emulation/probes.cu for ThreadSanitizer. Argument: which.
#include <stdio.h>

#include <string>
#include <vector>

#include "../emulation/emulated_runtime.h"

struct Sum {
  const float* values;
  float* partial;
  uint32_t* ticket;
  float* total;
};

extern "C" {
int probe_right(Sum sum, int blocks, int threads);
int probe_missing_barrier(float* out);
int probe_missing_ticket(float* out);
int probe_handed_over(bool ordered, float* data, int32_t* flag, float* out);
int probe_exchanged(bool ordered, float* out);
}

static int run(const std::string& name) {
  std::vector<float> values(6 * 64 * 4, 1.0f), out(64);
  float data = 0, total = 0;
  uint32_t ticket = 0;
  int32_t flag = 0;
  if (name == "right") return probe_right({values.data(), out.data(), &ticket, &total}, 6, 64);
  if (name == "missing_barrier") return probe_missing_barrier(out.data());
  if (name == "missing_ticket") return probe_missing_ticket(out.data());
  if (name == "release") return probe_handed_over(true, &data, &flag, out.data());
  if (name == "missing_release") return probe_handed_over(false, &data, &flag, out.data());
  if (name == "syncwarp") return probe_exchanged(true, out.data());
  if (name == "missing_syncwarp") return probe_exchanged(false, out.data());
  return 2;
}

int main(int, char** arguments) {
  for (uint64_t seed = 0; seed < 3; ++seed) {
    emulator_configure(seed, 16);  // every block has shared memory of its own
    const int error = run(arguments[1]);
    if (error != 0) {
      fprintf(stderr, "%s\n", emulator_error());
      return error;
    }
  }
}
