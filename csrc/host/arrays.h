// NumPy arrays out of a dictionary, checked: dtype, shape, layout.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

namespace tapout {
inline namespace TAPOUT_ISA {

namespace py = pybind11;

class Arrays {
 public:
  Arrays(const char* op, const py::dict& arrays) : op_(op), arrays_(arrays) {}

  // -1 in `shape`: any size. Its length is checked.
  template <class T>
  T* data(const char* name, const std::vector<int64_t>& shape) const {
    py::array array = find(name);
    check<T>(name, array, shape);
    if (!array.writeable()) throw py::value_error(where(name) + " must be writable");
    return static_cast<T*>(array.mutable_data());
  }

  template <class T>
  const T* input(const char* name, const std::vector<int64_t>& shape) const {
    py::array array = find(name);
    check<T>(name, array, shape);
    return static_cast<const T*>(array.data());
  }

  int64_t size(const char* name, int64_t dimension) const {
    const py::array array = find(name);
    if (array.ndim() <= dimension) throw py::value_error(where(name) + " has too few dimensions");
    return array.shape(dimension);
  }

 private:
  std::string where(const char* name) const { return std::string(op_) + ": " + name; }

  py::array find(const char* name) const {
    if (!arrays_.contains(name)) throw py::value_error(where(name) + " is missing");
    const py::object found = arrays_[name];
    if (!py::isinstance<py::array>(found)) {
      throw py::type_error(where(name) + " must be a NumPy array, got " +
                           std::string(py::str(py::type::of(found).attr("__name__"))));
    }
    return found;
  }

  template <class T>
  void check(const char* name, const py::array& array, const std::vector<int64_t>& shape) const {
    const py::dtype expected = py::dtype::of<T>();
    if (!array.dtype().is(expected) && !array.dtype().equal(expected)) {
      throw py::type_error(where(name) + " must be " + std::string(py::str(expected)) + ", got " +
                           std::string(py::str(array.dtype())));
    }
    bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
    for (size_t i = 0; same && i < shape.size(); ++i) {
      same = shape[i] < 0 || array.shape(static_cast<py::ssize_t>(i)) == shape[i];
    }
    if (!same) {
      const py::list wanted = py::cast(shape), got = py::list(array.attr("shape"));
      throw py::value_error(where(name) + " must be " + std::string(py::str(wanted)) + ", got " +
                            std::string(py::str(got)));
    }
    if (!(array.flags() & py::array::c_style)) {
      throw py::value_error(where(name) + " must be contiguous");
    }
  }

  const char* op_;
  const py::dict& arrays_;
};

}  // namespace TAPOUT_ISA
}  // namespace tapout
