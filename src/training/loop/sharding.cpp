#include "training/loop/sharding.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include "core/json.h"
#include "training/distributed/shard_transfer.h"
#include "training/optim/clip_factor.h"

namespace diffusers {
inline namespace internal {
namespace {

/// The name, dtype and shape of each tensor.
Json list_of_tensors(const TensorMap& tensors) {
  Json list = Json::array();
  for (const auto& [name, tensor] : tensors)
    list.push_back({name, static_cast<int>(tensor.scalar_type()), tensor.sizes().vec()});
  return list;
}

Tensor receive_listed(const ProcessGroup& group, const Json& entry, int64_t from) {
  return receive_tensor(group, entry[2].get<std::vector<int64_t>>(),
                        static_cast<at::ScalarType>(entry[1].get<int>()), from);
}

/// The owners of the parameters by their names in the optimizer's state.
std::map<std::string, int64_t> owners_by_key(const Optimizer& optimizer, const ParameterShards& shards) {
  std::map<std::string, int64_t> owners;
  for (const ParameterGroup& group : optimizer.param_groups())
    for (std::size_t i = 0; i < group.params.size(); ++i)
      owners[group.names.empty() ? std::to_string(owners.size()) : group.names[i]] =
          shards.owner(group.params[i]);
  return owners;
}

}  // namespace

Sharding::Sharding(const std::vector<Tensor>& parameters, ProcessGroup group)
    : group_(std::move(group)), shards_(parameters, group_.world_size(), group_.rank()) {}

bool Sharding::divides_gradients() const { return group_.options().zero_stage >= 2; }

Tensor Sharding::clip_grad_norm(const std::vector<Tensor>& parameters, double max_norm) const {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> grads;
  const bool is_double = std::all_of(parameters.begin(), parameters.end(), [](const Tensor& parameter) {
    return parameter.scalar_type() == at::kDouble;
  });
  const auto options =
      at::TensorOptions().dtype(is_double ? at::kDouble : at::kFloat).device(parameters.front().device());
  std::vector<Tensor> norms(parameters.size(), at::zeros({}, options));
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (!parameters[i].grad().defined()) continue;
    grads.push_back(parameters[i].grad());
    norms[i] = at::_foreach_norm({grads.back()}, 2).front().to(options);
  }
  // Each norm is that of one process, and the others add 0.
  const Tensor all = at::stack(norms);
  group_.all_reduce(all);
  Tensor total = at::linalg_vector_norm(all, 2);
  if (max_norm > 0 && !grads.empty()) at::_foreach_mul_(grads, clip_factor(total, max_norm));
  return total;
}

Tensor Sharding::any_process(const Tensor& flag) const {
  const Tensor sum = flag.clone();
  group_.all_reduce(sum);
  return (sum > 0).to(flag.scalar_type());
}

void Sharding::drop_other_gradients(const std::vector<Tensor>& parameters) const {
  for (const Tensor& parameter : parameters)
    if (!shards_.is_own(parameter)) parameter.mutable_grad().reset();
}

void Sharding::share_parameters(const std::vector<Tensor>& parameters) const {
  const auto cap = static_cast<int64_t>(group_.options().bucket_cap_mb * 1024 * 1024);
  broadcast_from_owners(group_, shards_.buckets(parameters, cap));
}

TensorMap Sharding::gather_state(const Optimizer& optimizer) const {
  TensorMap state = optimizer.state_dict();
  const std::vector<std::string> lists = group_.all_gather(list_of_tensors(state).dump());
  if (!group_.is_main()) {
    for (const auto& entry : state) send_tensor(group_, entry.second, 0);
    return state;
  }
  for (std::size_t rank = 1; rank < lists.size(); ++rank)
    for (const Json& entry : parse_json(lists[rank], "the list of the optimizer's state of another process"))
      state.insert(entry[0].get<std::string>(), receive_listed(group_, entry, static_cast<int64_t>(rank)));
  return state;
}

void Sharding::scatter_state(Optimizer& optimizer) const {
  const TensorMap state = group_.is_main() ? optimizer.state_dict() : TensorMap();
  const Json list = parse_json(group_.broadcast(list_of_tensors(state).dump()),
                               "the list of the optimizer's state of process 0");
  const std::map<std::string, int64_t> owners = owners_by_key(optimizer, shards_);
  TensorMap own;
  for (const Json& entry : list) {
    const auto name = entry[0].get<std::string>();
    const int64_t owner = owners.at(name.substr(0, name.rfind('.')));
    if (group_.is_main() && owner != 0) {
      send_tensor(group_, state.at(name), owner);
    } else if (owner == group_.rank()) {
      own.insert(name, group_.is_main() ? state.at(name) : receive_listed(group_, entry, 0));
    }
  }
  optimizer.load_state_dict(own);
}

void Sharding::gather_average(TrainingAverage& average) const {
  const at::NoGradGuard no_grad;
  std::vector<Tensor> averages = average.tensors();
  for (std::size_t i = 0; i < averages.size(); ++i) {
    const Tensor& parameter = average.parameters()[i];
    const int64_t owner = shards_.contains(parameter) ? shards_.owner(parameter) : 0;
    if (owner == 0) continue;
    if (owner == group_.rank()) send_tensor(group_, averages[i], 0);
    if (group_.is_main())
      averages[i] =
          at::empty_like(averages[i])
              .copy_(receive_tensor(group_, averages[i].sizes().vec(), averages[i].scalar_type(), owner));
  }
  if (group_.is_main()) average.hold_whole(std::move(averages));
}

void Sharding::scatter_average(TrainingAverage& average) const {
  const at::NoGradGuard no_grad;
  const std::vector<Tensor> averages = average.tensors();
  for (std::size_t i = 0; i < averages.size(); ++i) {
    const Tensor& parameter = average.parameters()[i];
    const int64_t owner = shards_.contains(parameter) ? shards_.owner(parameter) : 0;
    if (owner == 0) continue;
    if (group_.is_main()) send_tensor(group_, averages[i], owner);
    if (owner == group_.rank())
      averages[i].copy_(receive_tensor(group_, averages[i].sizes().vec(), averages[i].scalar_type(), 0));
  }
  average.release_whole();
}

}  // namespace internal
}  // namespace diffusers
