// What PyTorch's C++ side has to know of a device that calls itself cuda: how many there are, which one and which
// stream a thread is on, pinned host memory, and events. Tensors and their operators are Python's, see tensor.py.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/DeviceType.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

constexpr int most_devices = 16;
int device_count = 1;
thread_local DeviceIndex device_of_thread = 0;
thread_local c10::StreamId current_stream[most_devices] = {};
std::atomic<int64_t> last_stream{0};
std::atomic<int64_t> last_event{0};

// Python's part of streams, see streams.py; null until it is there.
struct Callbacks {
  void (*recorded)(int64_t event, int64_t stream);
  void (*waited)(int64_t event, int64_t stream);
  void (*event_done)(int64_t event, int64_t waits);
  void (*stream_done)(int64_t stream, int64_t waits);
  void (*device_done)();
} callbacks = {};

int64_t number_of(void* event) {
  return reinterpret_cast<int64_t>(event);
}

struct Guard final : public c10::impl::DeviceGuardImplInterface {
  DeviceType type() const override { return DeviceType::CUDA; }
  Device exchangeDevice(Device device) const override {
    Device before = getDevice();
    setDevice(device);
    return before;
  }
  Device getDevice() const override { return Device(DeviceType::CUDA, device_of_thread); }
  void setDevice(Device device) const override {
    if (device.index() < 0) return;
    TORCH_CHECK(device.index() < device_count, "CUDA error: invalid device ordinal ", int(device.index()));
    device_of_thread = device.index();
  }
  void uncheckedSetDevice(Device device) const noexcept override {
    if (device.index() >= 0 && device.index() < device_count) device_of_thread = device.index();
  }
  DeviceIndex deviceCount() const noexcept override { return device_count; }

  Stream stream_of(Device device, c10::StreamId id) const {
    DeviceIndex index = device.index() < 0 ? device_of_thread : device.index();
    return Stream(Stream::UNSAFE, Device(DeviceType::CUDA, index), id);
  }
  Stream getStream(Device device) const override {
    return stream_of(device, current_stream[device.index() < 0 ? device_of_thread : device.index()]);
  }
  Stream getDefaultStream(Device device) const override { return stream_of(device, 0); }
  Stream getNewStream(Device device, int) const override { return stream_of(device, ++last_stream); }
  Stream getStreamFromGlobalPool(Device device, bool) const override { return stream_of(device, ++last_stream); }
  Stream exchangeStream(Stream stream) const override {
    Stream before = getStream(stream.device());
    current_stream[stream.device_index()] = stream.id();
    return before;
  }

  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = reinterpret_cast<void*>(++last_event);
    if (callbacks.recorded) callbacks.recorded(number_of(*event), stream.id());
  }
  void block(void* event, const Stream& stream) const override {
    if (event && callbacks.waited) callbacks.waited(number_of(event), stream.id());
  }
  bool queryEvent(void* event) const override {
    if (event && callbacks.event_done) callbacks.event_done(number_of(event), 0);
    return true;
  }
  bool queryStream(const Stream& stream) const override {
    if (callbacks.stream_done) callbacks.stream_done(stream.id(), 0);
    return true;
  }
  void synchronizeEvent(void* event) const override {
    if (event && callbacks.event_done) callbacks.event_done(number_of(event), 1);
  }
  void synchronizeStream(const Stream& stream) const override {
    if (callbacks.stream_done) callbacks.stream_done(stream.id(), 1);
  }
  void synchronizeDevice(const DeviceIndex) const override {
    if (callbacks.device_done) callbacks.device_done();
  }
  double elapsedTime(void*, void*, const DeviceIndex) const override { return 0; }
};

// Memory of the processor that is remembered as pinned.
struct PinnedMemory final : public c10::Allocator {
  static std::mutex lock;
  static std::map<const char*, size_t> blocks;
  static void give_back(void* memory) {
    if (!memory) return;
    {
      std::lock_guard<std::mutex> held(lock);
      blocks.erase(static_cast<const char*>(memory));
    }
    std::free(memory);
  }
  static bool holds(const void* memory) {
    std::lock_guard<std::mutex> held(lock);
    auto behind = blocks.upper_bound(static_cast<const char*>(memory));
    if (behind == blocks.begin()) return false;
    auto block = std::prev(behind);
    return static_cast<const char*>(memory) < block->first + block->second;
  }
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    if (memory) {
      std::lock_guard<std::mutex> held(lock);
      blocks[static_cast<const char*>(memory)] = bytes;
    }
    return {memory, memory, &give_back, c10::Device(DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &give_back; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
std::mutex PinnedMemory::lock;
std::map<const char*, size_t> PinnedMemory::blocks;

Guard guard;
PinnedMemory pinned;

struct Hooks : public at::CUDAHooksInterface {
  explicit Hooks(at::CUDAHooksArgs) {}
  bool hasCUDA() const override { return device_count > 0; }
  bool isAvailable() const override { return device_count > 0; }
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  void init() const override {}
  DeviceIndex deviceCount() const override { return device_count; }
  DeviceIndex getCurrentDevice() const override { return device_of_thread; }
  void setCurrentDevice(DeviceIndex index) const override { guard.setDevice(Device(DeviceType::CUDA, index)); }
  bool isPinnedPtr(const void* data) const override { return PinnedMemory::holds(data); }
  at::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
};

}  // namespace

namespace at {
C10_REGISTER_CLASS(CUDAHooksRegistry, CUDAHooks, Hooks)
}

extern "C" {
void emulate(int devices) {
  device_count = devices;
  c10::impl::device_guard_impl_registry[static_cast<size_t>(DeviceType::CUDA)].store(&guard);
}
void call_back(Callbacks python) {
  callbacks = python;
}
int64_t stream_of_thread() {
  return current_stream[device_of_thread];
}
}
