# Every outside library the project links, found once. All are Debian 12 packages (deploy/install-packages.sh).

find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(OpenSSL REQUIRED)
find_package(fmt REQUIRED)
find_package(spdlog REQUIRED)
find_package(tomlplusplus REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Protobuf REQUIRED)
find_package(RocksDB REQUIRED)
find_package(Boost REQUIRED)

pkg_check_modules(xxhash REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(isal REQUIRED IMPORTED_TARGET libisal)
pkg_check_modules(ucx REQUIRED IMPORTED_TARGET ucx)
pkg_check_modules(zmq REQUIRED IMPORTED_TARGET libzmq)
pkg_check_modules(libzstd REQUIRED IMPORTED_TARGET libzstd)

# CAF 0.17 ships no CMake package in Debian.
add_library(planaria_caf INTERFACE)
target_link_libraries(planaria_caf INTERFACE caf_openssl caf_io caf_core OpenSSL::SSL OpenSSL::Crypto Threads::Threads)

if(PLANARIA_BUILD_TESTS)
  find_package(GTest REQUIRED)
  include(GoogleTest)
endif()
