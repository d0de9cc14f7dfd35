#include "recording.h"

#include <utility>
#include <vector>

#define TAPOUT_EXPORT extern "C" __attribute__((visibility("default")))

namespace tapout::bind {
namespace {

using Calls = std::vector<std::function<void()>>;

thread_local Calls* recording = nullptr;

}  // namespace

void keep(std::function<void()> call) {
  if (recording) recording->push_back(std::move(call));
}

}  // namespace tapout::bind

using tapout::bind::Calls;
using tapout::bind::recording;

// Begins to record the calls of this thread; false if it does already.
TAPOUT_EXPORT bool tapout_record() {
  if (recording) return false;
  recording = new Calls;
  return true;
}

// Ends it, and gives what was recorded.
TAPOUT_EXPORT void* tapout_recorded() { return std::exchange(recording, nullptr); }

// Makes recorded calls once more; whether all of them were made.
TAPOUT_EXPORT bool tapout_replay(const void* calls) {
  try {
    for (const auto& call : *static_cast<const Calls*>(calls)) call();
    return true;
  } catch (...) {  // of memory that there is not: nothing may be thrown into C
    return false;
  }
}

TAPOUT_EXPORT void tapout_forget(void* calls) { delete static_cast<Calls*>(calls); }
