// What cuBLASLt's algorithms can be set to, and what it says of them.
#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "kernels/cuda/matmul_plan.hpp"

namespace planaria::cuda {
namespace {

struct Tile {
  std::uint32_t id;
  std::string_view name;
};
#define PLANARIA_TILE(size) \
  { CUBLASLT_MATMUL_TILE_##size, #size }
// Columns of D by rows, as the library counts; those that can pay off for large products.
constexpr Tile kTiles[] = {
    PLANARIA_TILE(64x64),   PLANARIA_TILE(64x96),   PLANARIA_TILE(64x128),  PLANARIA_TILE(64x160),
    PLANARIA_TILE(64x192),  PLANARIA_TILE(64x224),  PLANARIA_TILE(64x256),  PLANARIA_TILE(64x320),
    PLANARIA_TILE(96x64),   PLANARIA_TILE(96x128),  PLANARIA_TILE(96x192),  PLANARIA_TILE(96x256),
    PLANARIA_TILE(128x64),  PLANARIA_TILE(128x96),  PLANARIA_TILE(128x128), PLANARIA_TILE(128x160),
    PLANARIA_TILE(128x192), PLANARIA_TILE(128x224), PLANARIA_TILE(128x256), PLANARIA_TILE(128x320),
    PLANARIA_TILE(160x64),  PLANARIA_TILE(160x128), PLANARIA_TILE(160x192), PLANARIA_TILE(160x256),
    PLANARIA_TILE(192x64),  PLANARIA_TILE(192x96),  PLANARIA_TILE(192x128), PLANARIA_TILE(192x160),
    PLANARIA_TILE(192x192), PLANARIA_TILE(192x224), PLANARIA_TILE(192x256), PLANARIA_TILE(224x128),
    PLANARIA_TILE(224x192), PLANARIA_TILE(256x64),  PLANARIA_TILE(256x96),  PLANARIA_TILE(256x128),
    PLANARIA_TILE(256x160), PLANARIA_TILE(256x192), PLANARIA_TILE(256x224), PLANARIA_TILE(256x256),
    PLANARIA_TILE(320x64),  PLANARIA_TILE(320x96),  PLANARIA_TILE(320x128), PLANARIA_TILE(320x160),
    PLANARIA_TILE(320x192), PLANARIA_TILE(384x64),  PLANARIA_TILE(384x96),  PLANARIA_TILE(384x128),
    PLANARIA_TILE(384x160)};
#undef PLANARIA_TILE
constexpr std::uint16_t kClusters[] = {CUBLASLT_CLUSTER_SHAPE_1x1x1, CUBLASLT_CLUSTER_SHAPE_2x1x1,
                                       CUBLASLT_CLUSTER_SHAPE_1x2x1, CUBLASLT_CLUSTER_SHAPE_2x2x1,
                                       CUBLASLT_CLUSTER_SHAPE_4x1x1, CUBLASLT_CLUSTER_SHAPE_1x4x1};
constexpr std::string_view kClusterNames[] = {"1x1", "2x1", "1x2", "2x2", "4x1", "1x4"};
constexpr std::int32_t kSplits[] = {1, 2, 3, 4, 5, 6, 7, 8, 12, 16};
constexpr std::int32_t kMostSplits = 64;  // the library proposes some of its own

// Empty where the library tells nothing.
template <class T>
std::vector<T> capability(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoCapAttributes_t attribute) {
  std::size_t bytes = 0;
  if (cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, nullptr, 0, &bytes) != CUBLAS_STATUS_SUCCESS) return {};
  std::vector<T> values(bytes / sizeof(T));
  if (values.empty() || cublasLtMatmulAlgoCapGetAttribute(&algorithm, attribute, values.data(),
                                                          values.size() * sizeof(T), &bytes) != CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  return values;
}
template <class T>
T limit(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoCapAttributes_t attribute) {
  const auto values = capability<T>(algorithm, attribute);
  return values.empty() ? T{} : values.front();
}

// "64x4" as in CUBLASLT_MATMUL_STAGES_64x4, "64xAUTO".
std::string stages_name(std::uint32_t id) {
  if (id >= CUBLASLT_MATMUL_STAGES_16x1 && id <= CUBLASLT_MATMUL_STAGES_128x6) {
    return fmt::format("{}x{}", 16 << (id - 1) / 6, (id - 1) % 6 + 1);
  }
  if (id >= CUBLASLT_MATMUL_STAGES_8xAUTO && id <= CUBLASLT_MATMUL_STAGES_256xAUTO) {
    return fmt::format("{}xAUTO", 8 << (id - CUBLASLT_MATMUL_STAGES_8xAUTO));
  }
  return fmt::format("#{}", id);
}

template <class T>
T config(const cublasLtMatmulAlgo_t& algorithm, cublasLtMatmulAlgoConfigAttributes_t attribute) {
  T value{};
  std::size_t written = 0;
  const auto status = cublasLtMatmulAlgoConfigGetAttribute(&algorithm, attribute, &value, sizeof(value), &written);
  return status == CUBLAS_STATUS_SUCCESS ? value : T{};
}

// Whether these are the bits that the library itself makes of settings that it offers. Its own check trusts them, and
// crashes on others.
bool is_offered(const Library& library, const MatmulPlan& plan, const cublasLtMatmulAlgo_t& algorithm) {
  cublasLtMatmulAlgo_t made{};
  if (cublasLtMatmulAlgoInit(library.handle, CUBLAS_COMPUTE_32F, CUDA_R_32F, CUDA_R_16BF, CUDA_R_16BF, plan.output,
                             plan.output, config<std::int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_ID), &made)) {
    return false;
  }
  bool good = true;
  const auto take = [&]<class T>(cublasLtMatmulAlgoConfigAttributes_t attribute, T, auto offered) {
    const T value = config<T>(algorithm, attribute);
    good = good && offered(value) && !cublasLtMatmulAlgoConfigSetAttribute(&made, attribute, &value, sizeof(value));
  };
  const auto among = [&](cublasLtMatmulAlgoCapAttributes_t attribute) {
    return [values = capability<std::uint32_t>(made, attribute)](std::uint32_t value) {
      return value == 0 || std::ranges::find(values, value) != values.end();
    };
  };
  const auto up_to = [](auto most) { return [most](auto value) { return value >= 0 && value <= most; }; };
  const std::int32_t splits = limit<std::int32_t>(made, CUBLASLT_ALGO_CAP_SPLITK_SUPPORT) != 0 ? kMostSplits : 1;
  const auto options = static_cast<std::uint32_t>(limit<std::int32_t>(made, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX));
  take(CUBLASLT_ALGO_CONFIG_TILE_ID, std::uint32_t{}, among(CUBLASLT_ALGO_CAP_TILE_IDS));
  take(CUBLASLT_ALGO_CONFIG_STAGES_ID, std::uint32_t{}, among(CUBLASLT_ALGO_CAP_STAGES_IDS));
  take(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, std::int32_t{}, up_to(splits));
  take(CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, std::uint32_t{}, up_to(std::uint32_t{CUBLASLT_REDUCTION_SCHEME_MASK}));
  take(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, std::uint32_t{},
       up_to(limit<std::uint32_t>(made, CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT)));
  take(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, std::uint32_t{}, up_to(options));
  take(CUBLASLT_ALGO_CONFIG_INNER_SHAPE_ID, std::uint16_t{},
       up_to(static_cast<std::uint16_t>(CUBLASLT_MATMUL_INNER_SHAPE_END - 1)));
  take(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, std::uint16_t{},
       up_to(static_cast<std::uint16_t>(CUBLASLT_CLUSTER_SHAPE_END - 1)));
  return good && std::ranges::equal(made.data, algorithm.data);
}

}  // namespace

std::vector<cublasLtMatmulAlgo_t> variants(const cublasLtMatmulAlgo_t& base, Dimension dimension) {
  std::vector<cublasLtMatmulAlgo_t> found;
  const auto with = [&](cublasLtMatmulAlgoConfigAttributes_t attribute, auto value) -> cublasLtMatmulAlgo_t* {
    cublasLtMatmulAlgo_t changed = base;
    if (cublasLtMatmulAlgoConfigSetAttribute(&changed, attribute, &value, sizeof(value))) return nullptr;
    return &found.emplace_back(changed);
  };
  switch (dimension) {
    case Dimension::tile:
      for (const auto id : capability<std::uint32_t>(base, CUBLASLT_ALGO_CAP_TILE_IDS)) {
        if (std::ranges::find(kTiles, id, &Tile::id) != std::end(kTiles)) with(CUBLASLT_ALGO_CONFIG_TILE_ID, id);
      }
      break;
    case Dimension::cluster:
      for (const auto id : kClusters) with(CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID, id);
      break;
    case Dimension::stages:
      for (const auto id : capability<std::uint32_t>(base, CUBLASLT_ALGO_CAP_STAGES_IDS)) {
        with(CUBLASLT_ALGO_CONFIG_STAGES_ID, id);
      }
      break;
    case Dimension::option:
      for (std::int32_t i = 0; i <= std::min(limit<std::int32_t>(base, CUBLASLT_ALGO_CAP_CUSTOM_OPTION_MAX), 15); ++i) {
        with(CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION, static_cast<std::uint32_t>(i));
      }
      break;
    case Dimension::swizzle:
      for (std::uint32_t i = 0; i <= std::min(limit<std::uint32_t>(base, CUBLASLT_ALGO_CAP_CTA_SWIZZLING_SUPPORT), 1U);
           ++i) {
        with(CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING, i);
      }
      break;
    case Dimension::split:
      if (limit<std::int32_t>(base, CUBLASLT_ALGO_CAP_SPLITK_SUPPORT) == 0) break;
      for (const auto splits : kSplits) {
        cublasLtMatmulAlgo_t* changed = with(CUBLASLT_ALGO_CONFIG_SPLITK_NUM, splits);
        const auto scheme = static_cast<std::uint32_t>(splits == 1 ? CUBLASLT_REDUCTION_SCHEME_NONE
                                                                   : CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE);
        if (changed != nullptr && cublasLtMatmulAlgoConfigSetAttribute(changed, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                                       &scheme, sizeof(scheme))) {
          found.pop_back();
        }
      }
      break;
  }
  return found;
}

std::optional<MatmulEntry> accept(const Library& library, MatmulPlan& plan, const cublasLtMatmulAlgo_t& algorithm) {
  const auto scheme = config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME);
  if (scheme != CUBLASLT_REDUCTION_SCHEME_NONE && scheme != CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE) return {};
  if (!is_offered(library, plan, algorithm) || expect_least_alignment(plan) != CUBLAS_STATUS_SUCCESS) return {};
  cublasLtMatmulHeuristicResult_t result{};
  if (cublasLtMatmulAlgoCheck(library.handle, &plan.operation, &plan.a, &plan.b, &plan.d, &plan.d, &algorithm,
                              &result) != CUBLAS_STATUS_SUCCESS ||
      result.workspaceSize > MatmulTable::kWorkspaceBytes) {
    return {};
  }
  return MatmulEntry{algorithm, result.workspaceSize, 0};
}

std::vector<cublasLtMatmulAlgo_t> propose(const Library& library, MatmulPlan& plan, int count,
                                          std::uint64_t workspace) {
  cublasLtMatmulPreferenceOpaque_t preference{};
  bool good = cublasLtMatmulPreferenceInit(&preference) == CUBLAS_STATUS_SUCCESS &&
              expect_least_alignment(plan) == CUBLAS_STATUS_SUCCESS;
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, auto value) {
    good = good &&
           cublasLtMatmulPreferenceSetAttribute(&preference, attribute, &value, sizeof(value)) == CUBLAS_STATUS_SUCCESS;
  };
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, workspace);
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<std::uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  for (const auto attribute :
       {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
        CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
    prefer(attribute, static_cast<std::uint32_t>(kMatmulAlignment));
  }
  std::vector<cublasLtMatmulHeuristicResult_t> results(static_cast<std::size_t>(count));
  int returned = 0;
  if (!good || cublasLtMatmulAlgoGetHeuristic(library.handle, &plan.operation, &plan.a, &plan.b, &plan.d, &plan.d,
                                              &preference, count, results.data(), &returned) != CUBLAS_STATUS_SUCCESS) {
    return {};
  }
  std::vector<cublasLtMatmulAlgo_t> algorithms;
  for (int i = 0; i < returned; ++i) {
    const auto& result = results[static_cast<std::size_t>(i)];
    if (result.state == CUBLAS_STATUS_SUCCESS) algorithms.push_back(result.algo);
  }
  return algorithms;
}

std::string describe(const MatmulEntry& entry) {
  const auto& algorithm = entry.algorithm;
  const auto id = config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_TILE_ID);
  const auto* tile = std::ranges::find(kTiles, id, &Tile::id);
  const auto cluster = config<std::uint16_t>(algorithm, CUBLASLT_ALGO_CONFIG_CLUSTER_SHAPE_ID);
  const auto* shape = std::ranges::find(kClusters, cluster);
  return fmt::format("algorithm {} tile {} stages {} cluster {} split {} option {} swizzle {}",
                     config<std::int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_ID),
                     tile == std::end(kTiles) ? fmt::format("#{}", id) : tile->name,
                     stages_name(config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_STAGES_ID)),
                     shape == std::end(kClusters) ? fmt::format("#{}", cluster) : kClusterNames[shape - kClusters],
                     config<std::int32_t>(algorithm, CUBLASLT_ALGO_CONFIG_SPLITK_NUM),
                     config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_CUSTOM_OPTION),
                     config<std::uint32_t>(algorithm, CUBLASLT_ALGO_CONFIG_CTA_SWIZZLING));
}

}  // namespace planaria::cuda
