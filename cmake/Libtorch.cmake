# An imported target `libtorch` for the stable ABI: headers and two libraries, nothing else.
#
# find_package(Torch) is not used on purpose: it drags in the CUDA toolkit torch was built with, its flags and its
# architectures, none of which matter to a library that only speaks the stable C ABI.

execute_process(
  COMMAND "${Python_EXECUTABLE}" -c
          "import os, torch; print(os.path.dirname(torch.__file__)); print(torch.__version__.split('+')[0])"
  OUTPUT_VARIABLE torch_facts ERROR_VARIABLE torch_error RESULT_VARIABLE torch_status
  OUTPUT_STRIP_TRAILING_WHITESPACE)
if(NOT torch_status EQUAL 0)
  message(FATAL_ERROR
    "fastvision needs torch >= 2.11 to build, and ${Python_EXECUTABLE} cannot import it.\n"
    "Install it with:  python -m pip install 'torch>=2.11'\n${torch_error}")
endif()
string(REPLACE "\n" ";" torch_facts "${torch_facts}")
list(GET torch_facts 0 TORCH_DIR)
list(GET torch_facts 1 TORCH_VERSION)
if(TORCH_VERSION VERSION_LESS 2.11)
  message(FATAL_ERROR
    "fastvision needs torch >= 2.11 to build; found ${TORCH_VERSION}.\n"
    "Install it with:  python -m pip install 'torch>=2.11'")
endif()

add_library(libtorch INTERFACE)
target_include_directories(libtorch SYSTEM INTERFACE "${TORCH_DIR}/include")
target_link_directories(libtorch INTERFACE "${TORCH_DIR}/lib")
target_link_options(libtorch INTERFACE -Wl,--no-as-needed)
target_link_libraries(libtorch INTERFACE torch torch_cpu c10)
# The oldest torch whose stable ABI is used: 2.11. Everything newer is compiled out, so a slip is a build error.
target_compile_definitions(libtorch INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
