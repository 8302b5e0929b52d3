# _C_emulated: every .cu compiled as C++ against csrc/emulation and registered on the CPU key. A test instrument.
file(GLOB emulation_sources CONFIGURE_DEPENDS csrc/emulation/*.cpp)
set_source_files_properties(${cuda_sources} PROPERTIES LANGUAGE CXX)

pybind11_add_module(_C_emulated MODULE NO_EXTRAS ${module_sources} ${cuda_sources} ${emulation_sources})
target_link_libraries(_C_emulated PRIVATE fastvision_flags)
target_include_directories(_C_emulated BEFORE PRIVATE csrc/emulation)
target_compile_definitions(_C_emulated PRIVATE FASTVISION_EMULATION)
target_compile_options(_C_emulated PRIVATE -O1 -g)
foreach(source IN LISTS cuda_sources)
  set_property(SOURCE ${source} APPEND PROPERTY COMPILE_OPTIONS -x c++)
endforeach()
install(TARGETS _C_emulated LIBRARY DESTINATION fastvision)
