#include "cuda_driver.h"

#include <dlfcn.h>

#include <map>
#include <memory>
#include <mutex>

namespace tapout {
inline namespace TAPOUT_ISA {
namespace cuda_driver {

Library::Library(const std::string& path)
    : path_(path), library_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (!library_) throw std::runtime_error("CUDA's driver does not load: " + std::string(dlerror()));
}

void* Library::find(const char* name) const {
  void* found = dlsym(library_, name);
  if (!found) throw std::runtime_error(path_ + " has no " + name);
  return found;
}

static std::string release(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Its version comes first: what an older driver lacks is not worth a name.
static Library recent(const std::string& path) {
  Library library(path);
  int version = 0;
  const Call<int*> get_version(library, "cuDriverGetVersion");
  if (get_version.function(&version) != 0) throw std::runtime_error("cuDriverGetVersion failed");
  if (version < kOldest) {
    throw std::runtime_error("it needs a driver of CUDA " + release(kOldest) +
                             " or newer, found one of " + release(version));
  }
  return library;
}

// The driver keeps every version of a call under a name of its own, so a name with its suffix says
// which one is meant, whatever the driver is. Those of streams are the ones whose null stream is
// the legacy one, as torch's is.
Driver::Driver(const std::string& path)
    : library_(recent(path)),
      error_name(library_, "cuGetErrorName"),
      error_text(library_, "cuGetErrorString"),
      current_context(library_, "cuCtxGetCurrent"),
      pop_context(library_, "cuCtxPopCurrent_v2"),
      push_context(library_, "cuCtxPushCurrent_v2"),
      exchange_capture_mode(library_, "cuThreadExchangeStreamCaptureMode"),
      create_graph(library_, "cuGraphCreate"),
      destroy_graph(library_, "cuGraphDestroy"),
      graph_nodes(library_, "cuGraphGetNodes"),
      node_type(library_, "cuGraphNodeGetType"),
      child_graph(library_, "cuGraphChildGraphNodeGetGraph"),
      create_handle(library_, "cuGraphConditionalHandleCreate"),
      add_node(library_, "cuGraphAddNode_v2"),
      instantiate(library_, "cuGraphInstantiateWithParams"),
      launch(library_, "cuGraphLaunch"),
      destroy_exec(library_, "cuGraphExecDestroy") {}

std::string Driver::said(const char* call, Result result) const {
  const char *name = nullptr, *text = nullptr;
  error_name.function(result, &name);
  error_text.function(result, &text);
  const std::string number = "error " + std::to_string(result);
  return std::string("RoundGraph: ") + call + ": " + (name ? name : number) + (text ? ", " : "") +
         (text ? text : "");
}

const Driver& driver_of(const std::string& path) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<const Driver>> drivers;
  const std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<const Driver>& driver = drivers[path];
  if (!driver) driver = std::make_unique<const Driver>(path);
  return *driver;
}

}  // namespace cuda_driver
}  // namespace TAPOUT_ISA
}  // namespace tapout
