// config.json in Hugging Face's terms, both ways.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "storage/export.hpp"

namespace planaria {
namespace {

using json = nlohmann::ordered_json;

// Far beyond any model; keeps products of two of them inside 64 bits.
constexpr std::uint64_t kMaxDimension = 1U << 24;

json gpt2_config(const ModelSpec& model) {
  return {{"architectures", {"GPT2LMHeadModel"}},
          {"model_type", "gpt2"},
          {"vocab_size", model.vocab},
          {"n_positions", model.context},
          {"n_ctx", model.context},
          {"n_embd", model.width},
          {"n_layer", model.layers},
          {"n_head", model.heads},
          {"n_inner", model.ffn_width},
          {"activation_function", "gelu_new"},
          {"layer_norm_epsilon", model.norm_epsilon},
          {"embd_pdrop", model.dropout},
          {"resid_pdrop", model.dropout},
          {"attn_pdrop", 0.0}};
}

json llama_config(const ModelSpec& model) {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", model.vocab},
          {"max_position_embeddings", model.context},
          {"hidden_size", model.width},
          {"intermediate_size", model.ffn_width},
          {"num_hidden_layers", model.layers},
          {"num_attention_heads", model.heads},
          {"num_key_value_heads", model.kv_heads},
          {"head_dim", model.head_size()},
          {"hidden_act", "silu"},
          {"rms_norm_eps", model.norm_epsilon},
          {"rope_theta", model.rope_theta},
          {"attention_bias", false},
          {"mlp_bias", false},
          {"attention_dropout", 0.0}};
}

// Reads fields and remembers the first that is wrong.
class Reader {
 public:
  explicit Reader(const json& root) : root_(root) {}

  std::uint32_t dimension(const char* key, std::uint64_t absent = 0) {
    const json* value = find(key);
    if (value == nullptr && absent != 0) return static_cast<std::uint32_t>(absent);
    if (value == nullptr || !value->is_number_unsigned() || value->get<std::uint64_t>() == 0 ||
        value->get<std::uint64_t>() > kMaxDimension) {
      fail(fmt::format("'{}' is not a number from 1 to {}", key, kMaxDimension));
      return 1;
    }
    return value->get<std::uint32_t>();
  }
  double number(const char* key, double absent) {
    const json* value = find(key);
    if (value == nullptr) return absent;
    if (!value->is_number() || !(value->get<double>() >= 0)) {
      fail(fmt::format("'{}' is not a number of 0 or more", key));
      return absent;
    }
    return value->get<double>();
  }
  bool flag(const char* key, bool absent) {
    const json* value = find(key);
    if (value == nullptr) return absent;
    if (!value->is_boolean()) {
      fail(fmt::format("'{}' is neither true nor false", key));
      return absent;
    }
    return value->get<bool>();
  }
  // Since transformers 5 the base lies in `rope_parameters`, beside the kind of scaling; before, in the root.
  double rope_theta() {
    const double of_root = number("rope_theta", 10000.0);
    const json* parameters = find("rope_parameters");
    if (parameters == nullptr) return of_root;
    if (!parameters->is_object()) {
      fail("'rope_parameters' is no object");
      return of_root;
    }
    Reader inner(*parameters);
    const double theta = inner.number("rope_theta", of_root);
    inner.only("rope_type", "default");
    if (!inner.failure().empty()) fail("'rope_parameters': " + inner.failure());
    return theta;
  }
  // Refuses any other value than the one we compute with.
  template <class T>
  void only(const char* key, const T& supported) {
    const json* value = find(key);
    if (value != nullptr && *value != json(supported)) {
      fail(fmt::format("'{}' is {}, supported is {}", key, value->dump(-1, ' ', true, json::error_handler_t::replace),
                       json(supported).dump()));
    }
  }
  void require(bool holds, const char* what) {
    if (!holds) fail(what);
  }
  [[nodiscard]] const std::string& failure() const { return failure_; }

 private:
  // Absent and null are one.
  const json* find(const char* key) {
    const auto found = root_.find(key);
    return found == root_.end() || found->is_null() ? nullptr : &*found;
  }
  void fail(std::string why) {
    if (failure_.empty()) failure_ = std::move(why);
  }

  const json& root_;
  std::string failure_;
};

ModelSpec read_gpt2(Reader& reader) {
  ModelSpec model;
  model.family = ModelFamily::gpt2;
  model.vocab = reader.dimension("vocab_size");
  model.context = reader.dimension("n_positions");
  model.width = reader.dimension("n_embd");
  model.layers = reader.dimension("n_layer");
  model.heads = reader.dimension("n_head");
  model.kv_heads = model.heads;
  model.ffn_width = reader.dimension("n_inner", 4ULL * model.width);
  model.norm_epsilon = reader.number("layer_norm_epsilon", 1e-5);
  model.dropout = reader.number("resid_pdrop", 0.1);
  model.tied_embedding = reader.flag("tie_word_embeddings", true);
  reader.only("activation_function", "gelu_new");
  reader.only("scale_attn_weights", true);
  reader.only("scale_attn_by_inverse_layer_idx", false);
  return model;
}

ModelSpec read_llama(Reader& reader) {
  ModelSpec model;
  model.family = ModelFamily::llama;
  model.vocab = reader.dimension("vocab_size");
  model.context = reader.dimension("max_position_embeddings");
  model.width = reader.dimension("hidden_size");
  model.ffn_width = reader.dimension("intermediate_size");
  model.layers = reader.dimension("num_hidden_layers");
  model.heads = reader.dimension("num_attention_heads");
  model.kv_heads = reader.dimension("num_key_value_heads", model.heads);
  model.norm_epsilon = reader.number("rms_norm_eps", 1e-6);
  model.rope_theta = reader.rope_theta();
  model.tied_embedding = reader.flag("tie_word_embeddings", false);
  reader.only("hidden_act", "silu");
  reader.only("attention_bias", false);
  reader.only("mlp_bias", false);
  reader.only("rope_scaling", nullptr);
  reader.only("head_dim", model.width / model.heads);
  reader.require(model.width / model.heads % 2 == 0, "the size of a head is odd, and rotary positions need pairs");
  reader.require(model.heads % model.kv_heads == 0, "'num_key_value_heads' doesn't divide 'num_attention_heads'");
  return model;
}

}  // namespace

std::string hugging_face_config(const ModelSpec& model) {
  json config = model.family == ModelFamily::gpt2 ? gpt2_config(model) : llama_config(model);
  config["tie_word_embeddings"] = model.tied_embedding;
  config["torch_dtype"] = "float32";
  // The classes' defaults name tokens of vocabularies that aren't this one.
  config["bos_token_id"] = nullptr;
  config["eos_token_id"] = nullptr;
  return config.dump(2) + "\n";
}

Result<ModelSpec> parse_hugging_face_config(std::string_view text) {
  const json root = json::parse(text, nullptr, false);
  if (root.is_discarded() || !root.is_object()) return Error(ErrorCode::corrupt, "it is not a JSON object");
  const std::string type =
      root.contains("model_type") && root["model_type"].is_string() ? root["model_type"] : json("");
  if (type != "gpt2" && type != "llama") {
    return Error(ErrorCode::unsupported, fmt::format("model_type is '{}', supported are gpt2 and llama", type));
  }
  Reader reader(root);
  const ModelSpec model = type == "gpt2" ? read_gpt2(reader) : read_llama(reader);
  reader.require(model.width % model.heads == 0, "the width is not a multiple of the heads");
  if (!reader.failure().empty()) return Error(ErrorCode::unsupported, reader.failure());
  return model;
}

}  // namespace planaria
