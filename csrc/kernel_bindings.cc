// Matrix products, the thread pool and the instruction sets, for tests, benchmarks and `gpt-oss doctor`.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "bindings.h"
#include "isa.h"
#include "kernels.h"
#include "matmul.h"

namespace nb = nanobind;

namespace gpt_oss {
namespace {

template <class T, int N>
using Array = nb::ndarray<T, nb::ndim<N>, nb::c_contig, nb::device::cpu>;

void check(bool ok, const char* message) {
  if (!ok) throw nb::value_error(message);
}

Precision parse_precision(const std::string& name) {
  check(name == "exact" || name == "balanced", "precision is exact or balanced");
  return name == "exact" ? Precision::exact : Precision::balanced;
}

// y [tokens][rows] is added to or written; int8 values and scales may be empty in exact precision.
void linear(const std::string& isa, const std::string& precision, int threads, Array<const uint16_t, 2> weight,
            Array<const uint8_t, 1> values, Array<const uint16_t, 1> scales, Array<const float, 1> bias,
            Array<const float, 2> x, Array<float, 2> y, bool add) {
  const int rows = static_cast<int>(weight.shape(0)), cols = static_cast<int>(weight.shape(1));
  check(cols % kBlock == 0 && x.shape(1) == weight.shape(1), "x and weight must share a multiple of 32 columns");
  check(y.shape(0) == x.shape(0) && y.shape(1) == weight.shape(0), "y must be [tokens][rows]");
  check(bias.shape(0) == 0 || bias.shape(0) == weight.shape(0), "bias must be empty or [rows]");
  check(values.shape(0) == 0 || values.shape(0) == Int8Weight::value_bytes(rows, cols), "int8 values have the wrong size");
  check(scales.shape(0) == 0 || scales.shape(0) == Int8Weight::scale_count(rows, cols), "int8 scales have the wrong size");
  Linear layer{rows, cols, weight.data(), {}, bias.shape(0) ? bias.data() : nullptr};
  if (values.shape(0) != 0) layer.int8 = {values.data(), scales.data()};
  ThreadPool pool(threads);
  Matmul matmul(parse_isa(isa), parse_precision(precision), pool);
  nb::gil_scoped_release unlocked;
  matmul.linear(layer, x.data(), static_cast<int>(x.shape(0)), y.data(), add);
}

void experts(const std::string& isa, const std::string& precision, int threads, Array<const uint8_t, 4> blocks1,
             Array<const uint8_t, 3> scales1, Array<const uint16_t, 2> bias1, Array<const uint8_t, 4> blocks2,
             Array<const uint8_t, 3> scales2, Array<const uint16_t, 2> bias2, int scale_bias, float limit,
             Array<const float, 2> x, Array<const int32_t, 2> picked, Array<const float, 2> weights, Array<float, 2> y) {
  const auto matrix = [](const auto& blocks, const auto& scales, const auto& bias) {
    const int rows = static_cast<int>(blocks.shape(1)), cols = static_cast<int>(blocks.shape(2)) * kBlock;
    check(blocks.shape(3) == 16 && scales.shape(0) == blocks.shape(0) && scales.shape(1) == blocks.shape(1) &&
              scales.shape(2) == blocks.shape(2) && bias.shape(0) == blocks.shape(0) && bias.shape(1) == blocks.shape(1),
          "blocks, scales and bias do not fit each other");
    return ExpertMatrix{blocks.data(), scales.data(), bias.data(), blocks.shape(1) * blocks.shape(2) * 16,
                        scales.shape(1) * scales.shape(2), bias.shape(1) * 2, rows, cols};
  };
  Experts layer{static_cast<int>(blocks1.shape(0)), static_cast<int>(picked.shape(1)), scale_bias, limit,
                matrix(blocks1, scales1, bias1), matrix(blocks2, scales2, bias2)};
  check(layer.mlp1.rows == 2 * layer.mlp2.cols && layer.mlp2.rows == layer.mlp1.cols, "mlp1 and mlp2 do not fit each other");
  check(x.shape(1) == static_cast<size_t>(layer.mlp1.cols) && y.shape(0) == x.shape(0) && y.shape(1) == x.shape(1), "x and y must be [tokens][hidden]");
  check(picked.shape(0) == x.shape(0) && weights.shape(0) == x.shape(0) && weights.shape(1) == picked.shape(1),
        "picked and weights must be [tokens][active]");
  for (size_t i = 0; i < picked.size(); ++i) check(picked.data()[i] >= 0 && picked.data()[i] < layer.count, "no such expert");
  ThreadPool pool(threads);
  Matmul matmul(parse_isa(isa), parse_precision(precision), pool);
  nb::gil_scoped_release unlocked;
  matmul.experts(layer, x.data(), static_cast<int>(x.shape(0)), picked.data(), weights.data(), y.data());
}

void quantise(Array<const uint16_t, 2> weight, int begin, int end, Array<uint8_t, 1> values, Array<uint16_t, 1> scales) {
  const int rows = static_cast<int>(weight.shape(0)), cols = static_cast<int>(weight.shape(1));
  check(cols % kBlock == 0 && 0 <= begin && begin <= end && end <= rows, "rows or columns out of range");
  check(values.shape(0) == Int8Weight::value_bytes(rows, cols) && scales.shape(0) == Int8Weight::scale_count(rows, cols),
        "values or scales have the wrong size");
  nb::gil_scoped_release unlocked;
  quantise_int8(weight.data(), begin, end, cols, values.data(), scales.data());
}

}  // namespace

void bind_kernels(nb::module_& m) {
  m.def("instruction_sets", [] {
    std::vector<std::string> names;
    for (const Isa isa : available_isas()) names.emplace_back(isa_name(isa));
    return names;
  });
  m.def("linear", linear);
  m.def("experts", experts);
  m.def("quantise_int8", quantise);
  m.def("int8_sizes", [](int rows, int cols) {
    return std::pair(Int8Weight::value_bytes(rows, cols), Int8Weight::scale_count(rows, cols));
  });
}

}  // namespace gpt_oss
