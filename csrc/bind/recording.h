// Kernel calls that are kept, to be made again on the same memory: what a CUDA graph is on a GPU. A
// call costs what the kernel does; Python, torch's dispatcher and the checks cost as much as
// several kernels of a round, more so after a forward has gone through the caches.
#pragma once

#include <functional>

namespace tapout::bind {

// Keeps a call where this thread records them.
void keep(std::function<void()> call);

}  // namespace tapout::bind
