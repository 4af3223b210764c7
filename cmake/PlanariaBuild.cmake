# Compiler settings and the helpers with which every folder declares its library and its tests.

set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

find_program(PLANARIA_CCACHE ccache)
if(PLANARIA_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER "${PLANARIA_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER "${PLANARIA_CCACHE}")
endif()
find_program(PLANARIA_MOLD mold)
if(PLANARIA_MOLD)
  # mold 1.10 begins RELRO at .tbss. Where the code ends in the last bytes of a page, that lies before the segment's first
  # page, and the program doesn't start ("cannot apply additional memory protection"). Aligned segments don't cross so.
  add_link_options(-fuse-ld=mold -Wl,-z,separate-code)
endif()

add_library(planaria_options INTERFACE)
target_include_directories(planaria_options INTERFACE "${PROJECT_SOURCE_DIR}")
# Contraction and reassociation would let the compiler choose the bits; the promise forbids both.
# -Wrestrict: g++ 12 takes string concatenation for an overlap (GCC bug 105651).
set(planaria_cxx_options
  -Wall -Wextra -Wno-psabi $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> -Wno-missing-field-initializers -ffp-contract=off -fno-fast-math)
option(PLANARIA_WERROR "Warnings are errors" ON)
if(PLANARIA_WERROR)
  list(APPEND planaria_cxx_options -Werror)
endif()
# g++ collects its garbage from 128 MiB on, a tenth of the time of our larger files; 512 MiB are enough for most of them.
target_compile_options(planaria_options INTERFACE
  "$<$<COMPILE_LANGUAGE:CXX>:${planaria_cxx_options}>" $<$<COMPILE_LANGUAGE:CUDA>:-fmad=false>
  $<$<COMPILE_LANG_AND_ID:CXX,GNU>:--param=ggc-min-heapsize=524288>)

# Sources that include much the same are compiled in batches: less to do for a build of all, more after a change to one.
option(PLANARIA_UNITY "Compile the tests' and the subcommands' sources in batches" OFF)
function(planaria_batches target)
  set_target_properties(${target} PROPERTIES UNITY_BUILD ${PLANARIA_UNITY} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

set(PLANARIA_SANITIZE "" CACHE STRING "Sanitizer build: empty, 'address' (with undefined), 'thread' or 'fuzzer' (clang)")
if(PLANARIA_SANITIZE STREQUAL "address")
  add_compile_options(-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(PLANARIA_SANITIZE STREQUAL "fuzzer")
  add_compile_options(-fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=undefined
    -fno-omit-frame-pointer)
  add_link_options(-fsanitize=address,undefined)
elseif(PLANARIA_SANITIZE STREQUAL "thread")
  # GCC 12 takes the variants that this instrumentation leaves in memory for uninitialized; the other builds keep the warning.
  # Boost.Asio's fences, which this sanitizer doesn't know, are the other.
  add_compile_options(-fsanitize=thread -fno-omit-frame-pointer -Wno-maybe-uninitialized -Wno-tsan)
  add_link_options(-fsanitize=thread)
endif()

# planaria_library(NAME SOURCES a.cpp b.cpp [LINKS lib ...] [PRIVATE_LINKS lib ...])
# One static library a folder (or a clear part of one); LINKS are the libraries whose headers its headers include.
function(planaria_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS;PRIVATE_LINKS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_link_libraries(${name} PUBLIC planaria_options ${ARG_LINKS} PRIVATE ${ARG_PRIVATE_LINKS})
  set_property(GLOBAL APPEND PROPERTY PLANARIA_LIBRARIES ${name})
endfunction()

# planaria_test(NAME SOURCES a_test.cpp [LINKS lib ...] [TIMEOUT s] [LABELS l ...])
# One GoogleTest binary; ctest runs each of its cases on its own so that -j spreads them. Cases find the source tree
# by PLANARIA_SOURCE_DIR. A sanitizer's build is slower: its timeouts are longer.
set(PLANARIA_TEST_ENVIRONMENT
  "TSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/sanitizers/tsan.supp:second_deadlock_stack=1"
  "LSAN_OPTIONS=suppressions=${PROJECT_SOURCE_DIR}/tests/sanitizers/lsan.supp:print_suppressions=0"
  "UBSAN_OPTIONS=print_stacktrace=1"
  "ASAN_OPTIONS=detect_stack_use_after_return=1")
if(PLANARIA_SANITIZE STREQUAL "thread")
  # UCX hooks this process's memory calls when it is loaded. ThreadSanitizer crashes in a hook that runs while a thread ends.
  list(APPEND PLANARIA_TEST_ENVIRONMENT "UCX_MEM_EVENTS=no")
endif()
function(planaria_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINKS;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 120)
  endif()
  if(NOT ARG_LABELS)
    set(ARG_LABELS unit)
  endif()
  if(PLANARIA_SANITIZE)
    math(EXPR ARG_TIMEOUT "${ARG_TIMEOUT} * 5")
  endif()
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE planaria_options ${ARG_LINKS} GTest::gtest GTest::gmock GTest::gtest_main)
  target_compile_definitions(${name} PRIVATE PLANARIA_SOURCE_DIR="${PROJECT_SOURCE_DIR}")
  # What is tested is optimized in its library; to optimize the test so takes longer than the test gains.
  target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-O1>)
  planaria_batches(${name})
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60
    PROPERTIES TIMEOUT ${ARG_TIMEOUT} LABELS "${ARG_LABELS}")
  # gtest_discover_tests would take a list of variables apart and set the first one only.
  set(script "${CMAKE_CURRENT_BINARY_DIR}/${name}_environment.cmake")
  file(WRITE "${script}" "foreach(test IN LISTS ${name}_TESTS)\n"
    "  set_tests_properties(\"\${test}\" PROPERTIES ENVIRONMENT [==[${PLANARIA_TEST_ENVIRONMENT}]==])\nendforeach()\n")
  set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES "${script}")
endfunction()

# planaria_fuzz(NAME SOURCES a_fuzz.cpp [LINKS lib ...])
# One libFuzzer target (clang). Its corpus of seeds is tests/fuzz/corpus/NAME, when there is one. Target `fuzzers`
# builds all; tests/run.sh runs each for a moment.
function(planaria_fuzz name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINKS" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE planaria_options ${ARG_LINKS})
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/fuzzers")
  if(NOT TARGET fuzzers)
    add_custom_target(fuzzers)
  endif()
  add_dependencies(fuzzers ${name})
endfunction()

# planaria_headers_alone()
# Target `headers_alone`: every header of the project compiles with nothing included before it. A source of a library
# proves it of the header that it includes first. Each other header has a small unit that includes it twice; headers are
# looked for when CMake runs. Call after the last planaria_library.
function(planaria_headers_alone)
  get_property(libraries GLOBAL PROPERTY PLANARIA_LIBRARIES)
  set(proven)
  foreach(library IN LISTS libraries)
    get_target_property(in_batches ${library} UNITY_BUILD)
    if(in_batches)
      continue()
    endif()
    get_target_property(folder ${library} SOURCE_DIR)
    get_target_property(sources ${library} SOURCES)
    list(FILTER sources INCLUDE REGEX "^[a-z].*\\.cpp$")  # none that is generated
    foreach(source IN LISTS sources)
      file(STRINGS "${folder}/${source}" first REGEX "^#include" LIMIT_COUNT 1)
      if(first MATCHES "\"(.*)\"")
        list(APPEND proven "${CMAKE_MATCH_1}")
      endif()
    endforeach()
  endforeach()

  set(units)
  foreach(folder common proto kernels storage worker coordinator chaos cli)
    file(GLOB_RECURSE headers RELATIVE "${PROJECT_SOURCE_DIR}" "${PROJECT_SOURCE_DIR}/${folder}/*.hpp")
    foreach(header IN LISTS headers)
      if(header MATCHES "^kernels/cuda/" AND NOT PLANARIA_WITH_CUDA)
        continue()
      endif()
      if(header IN_LIST proven)
        continue()
      endif()
      set(unit "${PROJECT_BINARY_DIR}/headers_alone/${header}.cpp")
      file(CONFIGURE OUTPUT "${unit}" CONTENT "#include \"${header}\"\n#include \"${header}\"\n")
      list(APPEND units "${unit}")
    endforeach()
  endforeach()
  add_library(headers_alone OBJECT EXCLUDE_FROM_ALL ${units})
  target_link_libraries(headers_alone PRIVATE ${libraries})
  add_dependencies(headers_alone ${libraries})
  target_compile_options(headers_alone PRIVATE -O0 -g0 -Wno-unused-function -Wno-unused-variable)
  set_target_properties(headers_alone PROPERTIES UNITY_BUILD OFF)
endfunction()
