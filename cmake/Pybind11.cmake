# pybind11 beside the Python that builds, unless pybind11_DIR or the prefix path says otherwise.
execute_process(
  COMMAND "${Python_EXECUTABLE}" -m pybind11 --cmakedir
  OUTPUT_VARIABLE pybind11_hint ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
find_package(pybind11 2.13 CONFIG QUIET HINTS "${pybind11_hint}")
if(NOT pybind11_FOUND)
  message(FATAL_ERROR
    "fastvision needs pybind11 >= 2.13 to build, and ${Python_EXECUTABLE} has none.\n"
    "Install it with:  python -m pip install 'pybind11>=2.13'")
endif()
