// Drawing a token from a hidden state, outside a model: for weights.py, tests and benchmarks.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include "bindings.h"
#include "noise.h"
#include "unembed.h"

namespace nb = nanobind;

namespace gpt_oss {
namespace {

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void check(bool ok, const char* message) {
  if (!ok) throw nb::value_error(message);
}

// An unembedding with threads of its own, which keeps its arrays.
class PyUnembedding {
 public:
  // norms may have no rows: then values and scales may be empty too.
  PyUnembedding(const std::string& isa, int threads, Array<const uint16_t, 2> weight, Array<const uint8_t, 1> values,
                Array<const uint16_t, 1> scales, Array<const float, 2> norms, int usable)
      : weight_(weight),
        values_(values),
        scales_(scales),
        norms_(norms),
        pool_(threads),
        matmul_(parse_isa(isa), Precision::exact, pool_),
        layer_{static_cast<int>(weight.shape(0)), static_cast<int>(weight.shape(1)), weight.data(),
               {values.data(), scales.data()}, nullptr},
        usable_(usable),
        unembedding_(layer_, norms.shape(0) ? reinterpret_cast<const RowNorms*>(norms.data()) : nullptr, usable,
                     matmul_) {
    check(layer_.cols % kBlock == 0 && 1 <= usable && usable <= layer_.rows, "columns or usable ids out of range");
    check(norms.shape(1) == 2 && (norms.shape(0) == 0 || norms.shape(0) == weight.shape(0)),
          "norms are [rows][2], or none");
    check(norms.shape(0) == 0 || (values.shape(0) == Int8Weight::value_bytes(layer_.rows, layer_.cols) &&
                                  scales.shape(0) == Int8Weight::scale_count(layer_.rows, layer_.cols)),
          "values or scales have the wrong size");
  }

  int sample(Array<const float, 1> x, double temperature, uint64_t seed, int64_t position) {
    check_input(x);
    nb::gil_scoped_release unlocked;
    return unembedding_.sample(x.data(), temperature, seed, position);
  }

  void bounds(Array<const float, 1> x, Array<float, 1> approximate, Array<double, 1> errors) {
    check_input(x);
    check(static_cast<int>(approximate.shape(0)) == usable_ && static_cast<int>(errors.shape(0)) == usable_,
          "bounds are of all usable ids");
    unembedding_.bounds(x.data(), approximate.data(), errors.data());
  }

  void exact_rows(Array<const float, 1> x, Array<const int32_t, 1> ids, Array<float, 1> out) {
    check_input(x);
    check(ids.shape(0) == out.shape(0), "one logit for each id");
    for (size_t i = 0; i < ids.size(); ++i) check(ids.data()[i] >= 0 && ids.data()[i] < layer_.rows, "no such row");
    matmul_.exact_rows(layer_, x.data(), ids.data(), static_cast<int>(ids.size()), out.data());
  }

 private:
  void check_input(const Array<const float, 1>& x) const {
    check(static_cast<int>(x.shape(0)) == layer_.cols, "x must have a value for each column");
  }

  Array<const uint16_t, 2> weight_;
  Array<const uint8_t, 1> values_;
  Array<const uint16_t, 1> scales_;
  Array<const float, 2> norms_;
  ThreadPool pool_;
  Matmul matmul_;
  Linear layer_;
  int usable_;
  Unembedding unembedding_;
};

void norms_of(Array<const uint16_t, 2> weight, int begin, int end, Array<float, 2> norms) {
  const int rows = static_cast<int>(weight.shape(0)), cols = static_cast<int>(weight.shape(1));
  check(cols % kBlock == 0 && 0 <= begin && begin <= end && end <= rows, "rows or columns out of range");
  check(static_cast<int>(norms.shape(0)) == rows && norms.shape(1) == 2, "norms are [rows][2]");
  nb::gil_scoped_release unlocked;
  row_norms(weight.data(), begin, end, cols, reinterpret_cast<RowNorms*>(norms.data()));
}

void gumbel(uint64_t seed, int64_t position, Array<const int32_t, 1> tokens, bool bound, Array<double, 1> out) {
  check(tokens.shape(0) == out.shape(0), "one value for each token");
  const Gumbel noise(seed, position);
  for (size_t i = 0; i < tokens.size(); ++i) {
    const int token = tokens.data()[i];
    out.data()[i] = bound ? noise.bound(token) : noise(token);
  }
}

}  // namespace

void bind_unembed(nb::module_& m) {
  nb::class_<PyUnembedding>(m, "Unembedding")
      .def(nb::init<const std::string&, int, Array<const uint16_t, 2>, Array<const uint8_t, 1>, Array<const uint16_t, 1>,
                    Array<const float, 2>, int>())
      .def("sample", &PyUnembedding::sample)
      .def("bounds", &PyUnembedding::bounds)
      .def("exact_rows", &PyUnembedding::exact_rows);
  m.def("row_norms", norms_of);
  m.def("gumbel", gumbel);
}

}  // namespace gpt_oss
