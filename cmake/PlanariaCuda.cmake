# Whether and how the CUDA kernels are built. PLANARIA_CUDA: AUTO (where CUDA 13 is installed), ON (or it is an error), OFF.

set(PLANARIA_CUDA AUTO CACHE STRING "The CUDA plugin: AUTO, ON or OFF")
set_property(CACHE PLANARIA_CUDA PROPERTY STRINGS AUTO ON OFF)
# Machine code for each, and PTX of the last for what comes after.
set(PLANARIA_CUDA_ARCHITECTURES "80-real;86-real;89-real;90-real;100" CACHE STRING "GPUs that the plugin has code for")

set(PLANARIA_WITH_CUDA OFF)
if(PLANARIA_CUDA STREQUAL "ON" OR (PLANARIA_CUDA STREQUAL "AUTO" AND NOT PLANARIA_SANITIZE))
  if(PLANARIA_CUDA STREQUAL "ON")
    find_package(CUDAToolkit 13 REQUIRED)
  else()
    find_package(CUDAToolkit 13 QUIET)
  endif()
  if(CUDAToolkit_FOUND AND CUDAToolkit_NVCC_EXECUTABLE)
    set(PLANARIA_WITH_CUDA ON)
  endif()
endif()

if(PLANARIA_WITH_CUDA)
  set(CMAKE_CUDA_COMPILER "${CUDAToolkit_NVCC_EXECUTABLE}" CACHE FILEPATH "")
  set(CMAKE_CUDA_ARCHITECTURES "${PLANARIA_CUDA_ARCHITECTURES}")
  if(PLANARIA_CCACHE AND NOT CMAKE_CUDA_COMPILER_LAUNCHER)
    set(CMAKE_CUDA_COMPILER_LAUNCHER "${PLANARIA_CCACHE}")
  endif()
  set(CMAKE_CUDA_RUNTIME_LIBRARY None)  # targets name it
  enable_language(CUDA)
  # Debian 12's CMake doesn't know that nvcc speaks C++20.
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  # Given as -isystem, which libraries' packages do, it would come before the compiler's own.
  list(APPEND CMAKE_CUDA_IMPLICIT_INCLUDE_DIRECTORIES /usr/include)
endif()
