#include "kernels/make_device.hpp"

#include <dlfcn.h>

#include <filesystem>
#include <string>
#include <utility>

#include "common/host.hpp"
#include "kernels/device_plugin.hpp"

namespace planaria {
namespace {

Result<std::string> plugin_path() {
  PLANARIA_ASSIGN(const std::filesystem::path executable, own_executable());
  const auto folder = executable.parent_path();
  std::error_code error;
  for (const auto& place : {folder / kCudaPluginFile, folder.parent_path() / "lib" / "planaria" / kCudaPluginFile}) {
    if (std::filesystem::exists(place, error)) return place.string();
  }
  return Error(ErrorCode::not_found, "there is no " + (folder / kCudaPluginFile).string() +
                                         ": it is built where CUDA 13 is installed (PLANARIA_CUDA=ON says what lacks), "
                                         "and belongs beside the executable");
}

// Never unloaded: devices have code of it.
Result<const DevicePlugin*> load_plugin() {
  PLANARIA_ASSIGN(const std::string path, plugin_path());
  void* const library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return Error(ErrorCode::unavailable, std::string("the library for GPUs can't be loaded: ") + ::dlerror());
  }
  using Entry = const DevicePlugin* (*)();
  const auto entry = reinterpret_cast<Entry>(::dlsym(library, kDevicePluginEntry));
  if (entry == nullptr) return Error(ErrorCode::mismatch, path + " is no library of devices");
  const DevicePlugin* const plugin = entry();
  if (std::string(plugin->build) != device_plugin_build()) {
    return Error(ErrorCode::mismatch, path + " is of another build than this executable: \"" + plugin->build +
                                          "\" there, \"" + device_plugin_build() + "\" here");
  }
  return plugin;
}

Result<std::unique_ptr<Device>> make_gpu(const DeviceChoice& choice) {
  PLANARIA_ASSIGN(const DevicePlugin* const plugin, load_plugin());
  return plugin->make(choice.index.value_or(0), choice.precision);
}

Result<std::unique_ptr<Device>> make_cpu(const CpuOptions& options) {
  PLANARIA_ASSIGN(auto device, make_cpu_device(options));
  return std::unique_ptr<Device>(std::move(device));
}

}  // namespace

Result<MadeDevice> make_device(const DeviceChoice& choice, const CpuOptions& cpu) {
  MadeDevice made;
  if (choice.kind != DeviceKind::cpu) {
    auto gpu = make_gpu(choice);
    if (gpu) return MadeDevice{std::move(*gpu), {}};
    // One that is there and can't be used is worth an error, also to who would do without.
    const ErrorCode code = gpu.error().code();
    const bool none = code == ErrorCode::not_found || code == ErrorCode::unavailable;
    if (choice.kind == DeviceKind::cuda || !none) return gpu.error().within(to_string(choice));
    made.why_not_gpu = gpu.error().message();
    if (choice.precision == Precision::bf16) {
      return Error(ErrorCode::unsupported,
                   "a CPU trains in fp32 only, not in bf16, and no GPU can be used: " + made.why_not_gpu);
    }
  }
  PLANARIA_ASSIGN(made.device, make_cpu(cpu));
  return made;
}

Result<std::uint32_t> count_gpus() {
  PLANARIA_ASSIGN(const DevicePlugin* const plugin, load_plugin());
  return plugin->count();
}

}  // namespace planaria
