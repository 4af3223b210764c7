# Compiler settings and the helpers with which every folder declares its library and its tests.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(PLANARIA_CCACHE ccache)
if(PLANARIA_CCACHE)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${PLANARIA_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER "${PLANARIA_CCACHE}")
endif()
find_program(PLANARIA_MOLD mold)
if(PLANARIA_MOLD)
  add_link_options(-fuse-ld=mold)
endif()

add_library(planaria_options INTERFACE)
target_include_directories(planaria_options INTERFACE "${PROJECT_SOURCE_DIR}")
# Contraction and reassociation would let the compiler choose the bits; the promise forbids both.
target_compile_options(planaria_options INTERFACE
  -Wall -Wextra -Werror -Wno-psabi -ffp-contract=off -fno-fast-math)

set(PLANARIA_SANITIZE "" CACHE STRING "Sanitizer build: empty, 'address' (with undefined) or 'thread'")
if(PLANARIA_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(PLANARIA_SANITIZE STREQUAL "thread")
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer)
  add_link_options(-fsanitize=thread)
endif()

# planaria_library(NAME SOURCES a.cpp b.cpp [LINKS lib ...] [PRIVATE_LINKS lib ...])
# One static library a folder (or a clear part of one); LINKS are the libraries whose headers its headers include.
function(planaria_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC planaria_options ${ARG_LINKS} PRIVATE ${ARG_PRIVATE_LINKS})
endfunction()

# planaria_test(NAME SOURCES a_test.cpp [LINKS lib ...] [TIMEOUT s] [LABELS l ...])
# One GoogleTest binary; ctest runs each of its cases on its own so that -j spreads them.
function(planaria_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINKS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE planaria_options ${ARG_LINKS} GTest::gtest GTest::gmock GTest::gtest_main)
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
endfunction()
