#include "kernels/device_plugin.hpp"

namespace planaria {

const char* device_plugin_build() {
  return "planaria " PLANARIA_VERSION ", interface " PLANARIA_INTERFACE ", compiled by " __VERSION__;
}

}  // namespace planaria
