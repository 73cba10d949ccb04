// Products of two float matrices by oneDNN's micro-kernels, called without torch's dispatcher.
//
// A small network spends most of a compiled step in matrix products, and there most of the time goes into dispatch and
// into MKL's generic path. The kernels here are torch's own (at::native::cpublas::brgemm); what is added is a
// transposition where an operand has the other order, and threads over rows where the product is large.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/cpu/vec/vec.h>
#include <ATen/native/CPUBlas.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>

#include <algorithm>

namespace {

constexpr int64_t kBlock = 16;           // at::vec transposes squares of this size
constexpr int64_t kRows = 32;            // rows of a block that one thread works on
constexpr int64_t kWorthThreads = 1 << 22;

struct Operand {
  at::Tensor keep;
  const float* data;
  int64_t stride;
};

// `matrix` with unit stride along its second axis: as it lies, or transposed into new memory.
Operand row_major(const at::Tensor& matrix) {
  const int64_t rows = matrix.size(0), columns = matrix.size(1);
  if (columns == 1 || matrix.stride(1) == 1) {
    const int64_t stride = rows == 1 ? columns : matrix.stride(0);
    if (stride >= columns) {
      return {matrix, matrix.const_data_ptr<float>(), stride};
    }
  }
  at::Tensor copy = at::detail::empty_cpu({rows, columns}, at::kFloat);
  float* to = copy.mutable_data_ptr<float>();
  if (matrix.stride(0) == 1 && matrix.stride(1) >= rows) {
    const float* from = matrix.const_data_ptr<float>();
    const int64_t stride = matrix.stride(1);
    for (int64_t i = 0; i < columns; i += kBlock) {
      for (int64_t j = 0; j < rows; j += kBlock) {
        at::vec::transpose_mxn<float>(
            from + i * stride + j, stride, to + j * columns + i, columns,
            static_cast<int>(std::min(kBlock, columns - i)), static_cast<int>(std::min(kBlock, rows - j)));
      }
    }
  } else {
    copy.copy_(matrix);
  }
  return {copy, to, columns};
}

at::Tensor product(const at::Tensor& left, const at::Tensor& right) {
  const int64_t m = left.size(0), k = left.size(1), n = right.size(1);
  at::Tensor out = at::detail::empty_cpu({m, n}, at::kFloat);
  const Operand a = row_major(left), b = row_major(right);
  float* c = out.mutable_data_ptr<float>();
  const auto rows = [&](int64_t begin, int64_t end) {
    if (begin < end) {
      at::native::cpublas::brgemm(
          end - begin, n, k, a.stride, b.stride, n, false, a.data + begin * a.stride, b.data, c + begin * n, false);
    }
  };
  if (m * n * k < kWorthThreads || at::get_num_threads() == 1) {
    rows(0, m);
  } else {
    at::parallel_for(0, m, kRows, rows);
  }
  return out;
}

}  // namespace

extern "C" AOTITorchError aoti_torch_cpu_ppl_vae_mm(AtenTensorHandle left, AtenTensorHandle right, AtenTensorHandle* out) {
  AOTI_TORCH_CONVERT_EXCEPTION_TO_ERROR_CODE({
    *out = torch::aot_inductor::new_tensor_handle(product(
        *torch::aot_inductor::tensor_handle_to_tensor_pointer(left),
        *torch::aot_inductor::tensor_handle_to_tensor_pointer(right)));
  });
}

// Does this processor give the numbers of at::mm, for operands in every order? 1 if so, 0 if not.
extern "C" int ppl_vae_mm_is_right() {
  try {
    for (const int64_t m : {1, 3, 16, 33}) {
      for (const int64_t n : {1, 5, 32, 47}) {
        for (const int64_t k : {1, 7, 64, 81}) {
          const auto fill = [](int64_t rows, int64_t columns) {
            return at::arange(rows * columns, at::kFloat).remainder(11.0).sub(5.0).view({rows, columns});
          };
          for (const bool left : {false, true}) {
            for (const bool right : {false, true}) {
              const at::Tensor a = left ? fill(k, m).t() : fill(m, k), b = right ? fill(n, k).t() : fill(k, n);
              if (!at::allclose(product(a, b), at::mm(a, b), 1e-5, 1e-4)) {
                return 0;
              }
            }
          }
        }
      }
    }
    return 1;
  } catch (...) {
    return 0;
  }
}
