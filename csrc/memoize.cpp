// Keys are words of what arguments say; see memoize.h.
#include "memoize.h"

// DLPack's own C header, which torch hides with all of ATen from who keeps to its stable ABI
#undef TORCH_TARGET_VERSION
#include <ATen/dlpack.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <new>
#include <span>
#include <unordered_map>
#include <utility>
#include <vector>

namespace fastvision {
namespace {

namespace py = pybind11;

// torch's classes of tensors, and how they are read.
struct Tensors {
  py::tuple types;
  py::function unreadable;
  const DLPackExchangeAPI* exchange;

  // An error of the exchange takes 2 ms, and it has one for each tensor of a transform.
  bool readable() const {
    PyObject* answer = PyObject_CallNoArgs(unreadable.ptr());
    if (answer == nullptr) PyErr_Clear();
    Py_XDECREF(answer);
    return answer == Py_False;
  }

  bool reads(PyObject* object) const {
    const auto type = reinterpret_cast<PyObject*>(Py_TYPE(object));
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(types.ptr()); ++i) {
      if (PyTuple_GET_ITEM(types.ptr(), i) == type) return exchange != nullptr;
    }
    return false;
  }
};

// What an argument is, in the low bits of its first word: equal keys are equal arguments.
enum Kind : int64_t { kNone, kNumber, kTuple, kList, kTensor };

// Words on the stack, as few as may be, because all are hashed: two tensors of four dimensions and what a convolution
// is told take 15. What takes more than 32 bits is no key.
class Key {
 public:
  // Whether the argument could be added.
  bool add(PyObject* argument, const Tensors& tensors);

  std::span<const int64_t> words() const { return {words_.data(), size_}; }

 private:
  bool words(int64_t low, int64_t high) {
    if (size_ == words_.size() || low != static_cast<int32_t>(low) || high != static_cast<int32_t>(high)) return false;
    words_[size_++] = high * (int64_t{1} << 32) + static_cast<uint32_t>(low);
    return true;
  }

  // An int, and no bool or other number that equals one.
  bool number(PyObject* object) {
    if (!PyLong_CheckExact(object)) return false;
    int overflow = 0;
    const int64_t value = PyLong_AsLongLongAndOverflow(object, &overflow);
    return overflow == 0 && words(kNumber, value);
  }

  bool tensor(PyObject* object, const DLPackExchangeAPI& exchange);

  std::array<int64_t, 48> words_;
  size_t size_ = 0;
};

struct Hash {
  using is_transparent = void;
  size_t operator()(std::span<const int64_t> words) const {
    uint64_t hash = words.size();
    for (const int64_t word : words) {
      hash = (hash ^ static_cast<uint64_t>(word)) * 0x9E3779B97F4A7C15u;  // 2^64 by the golden ratio
      hash ^= hash >> 29;
    }
    return hash;
  }
};

struct Equal {
  using is_transparent = void;
  bool operator()(std::span<const int64_t> a, std::span<const int64_t> b) const { return std::ranges::equal(a, b); }
};

using Answers = std::unordered_map<std::vector<int64_t>, py::object, Hash, Equal>;

struct Memo {
  py::function function;
  size_t most;
  Tensors tensors;
  Answers answers;
};

bool Key::add(PyObject* argument, const Tensors& tensors) {
  if (tensors.reads(argument)) return tensor(argument, *tensors.exchange);
  if (argument == Py_None) return words(kNone, 0);
  const bool tuple = PyTuple_Check(argument);  // torch.Size is one
  if (!tuple && !PyList_CheckExact(argument)) return number(argument);
  const Py_ssize_t size = PySequence_Fast_GET_SIZE(argument);
  bool added = words(tuple ? kTuple : kList, size);
  for (Py_ssize_t i = 0; added && i < size; ++i) added = number(PySequence_Fast_GET_ITEM(argument, i));
  return added;
}

bool Key::tensor(PyObject* object, const DLPackExchangeAPI& exchange) {
  DLTensor read;
  if (exchange.dltensor_from_py_object_no_sync(object, &read) != 0) {
    PyErr_Clear();  // sparse, ...
    return false;
  }
  const DLDataType& dtype = read.dtype;  // one byte, one byte, and lanes, which are 1
  const int64_t type = int64_t{dtype.code} << 16 | int64_t{dtype.bits} << 8 | read.device.device_type;
  bool added = dtype.lanes == 1 && words(kTensor | int64_t{read.ndim} << 3, type);
  for (int d = 0; added && d < read.ndim; ++d) added = words(read.shape[d], read.strides[d]);
  return added;
}

// torch's, if it has one and it is of the version this was compiled for.
const DLPackExchangeAPI* exchange_of(const py::tuple& tensor_types) {
  const char* attribute = "__dlpack_c_exchange_api__";
  if (tensor_types.empty() || !py::hasattr(tensor_types[0], attribute)) return nullptr;
  const py::object capsule = tensor_types[0].attr(attribute);
  const char* name = "dlpack_exchange_api";
  if (!PyCapsule_IsValid(capsule.ptr(), name)) return nullptr;
  const auto found = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), name));
  const bool known = found->header.version.major == DLPACK_MAJOR_VERSION;
  return known && found->dltensor_from_py_object_no_sync ? found : nullptr;
}

// Without memory for it an answer is not remembered: no exception may pass through Python's own frames.
void remember(Memo& memo, const Key& key, py::object answer) noexcept {
  try {
    Answers forgotten;  // dies with its answers once the memo is whole again: their finalizers may come back to it
    if (memo.answers.size() >= memo.most) forgotten.swap(memo.answers);
    const auto words = key.words();
    memo.answers.insert_or_assign({words.begin(), words.end()}, std::move(answer));
  } catch (const std::bad_alloc&) {
  }
}

constexpr const char* kCapsule = "fastvision.memo";

PyObject* recall(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  auto& memo = *static_cast<Memo*>(PyCapsule_GetPointer(self, kCapsule));
  Key key;
  bool known = memo.tensors.readable();
  for (Py_ssize_t i = 0; known && i < count; ++i) known = key.add(arguments[i], memo.tensors);
  if (known) {
    const auto found = memo.answers.find(key.words());
    if (found != memo.answers.end()) return found->second.inc_ref().ptr();
  }
  PyObject* answer = PyObject_Vectorcall(memo.function.ptr(), arguments, count, nullptr);
  if (known && answer != nullptr) remember(memo, key, py::reinterpret_borrow<py::object>(answer));
  return answer;
}

PyMethodDef recall_definition = {"memoized", reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(recall)),
                                 METH_FASTCALL, "The function that memoize was given."};

}  // namespace

py::object memoize(py::function function, size_t most, py::tuple tensor_types, py::function unreadable) {
  const auto exchange = exchange_of(tensor_types);
  auto memo = new Memo{std::move(function), most, {std::move(tensor_types), std::move(unreadable), exchange}, {}};
  const py::capsule owner(
      memo, kCapsule, [](PyObject* capsule) { delete static_cast<Memo*>(PyCapsule_GetPointer(capsule, kCapsule)); });
  return py::reinterpret_steal<py::object>(PyCFunction_New(&recall_definition, owner.ptr()));
}

}  // namespace fastvision
