#include "text/spm_shim.h"

#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <unordered_map>
#include <vector>

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

struct kin_spm {
    sentencepiece::SentencePieceProcessor processor;
    bool byte_fallback;
};

namespace
{

/* Runs f, which returns a library status, and turns every way of failing into a code and a line. */
template <typename F> kin_spm_code guarded(char *message, size_t bytes, F f) noexcept
{
    try {
        const sentencepiece::util::Status status = f();
        if (status.ok())
            return KIN_SPM_OK;
        std::snprintf(message, bytes, "%s", status.error_message());
        return KIN_SPM_FAILED;
    } catch (const std::bad_alloc &) {
        return KIN_SPM_MEM;
    } catch (const std::exception &e) {
        std::snprintf(message, bytes, "%s", e.what());
    } catch (...) {
        std::snprintf(message, bytes, "unknown exception");
    }
    return KIN_SPM_FAILED;
}

/* Every run of byte pieces, which stand for unknown characters, becomes one unk. */
void fuse_bytes(const sentencepiece::SentencePieceProcessor &processor, std::vector<int> *ids)
{
    size_t n = 0;
    bool in_run = false;
    for (const int id : *ids) {
        const bool byte = processor.IsByte(id);
        if (!byte || !in_run)
            (*ids)[n++] = byte ? processor.unk_id() : id;
        in_run = byte;
    }
    ids->resize(n);
}

/* Sentences of the caller's array. */
class Sentences : public sentencepiece::SentenceIterator
{
  public:
    Sentences(const char *const *list, int n) : list_(list), n_(n)
    {
        load();
    }
    bool done() const override
    {
        return at_ >= n_;
    }
    void Next() override
    {
        at_++;
        load();
    }
    const std::string &value() const override
    {
        return value_;
    }
    sentencepiece::util::Status status() const override
    {
        return sentencepiece::util::Status();
    }

  private:
    void load()
    {
        if (at_ < n_)
            value_ = list_[at_];
    }
    const char *const *list_;
    int n_, at_ = 0;
    std::string value_;
};

} // namespace

kin_spm_code kin_spm_create(const void *model, size_t bytes, bool dummy_prefix, bool byte_fallback,
                            kin_spm **out, char *message, size_t message_bytes)
{
    kin_spm *spm = nullptr;
    const kin_spm_code code = guarded(message, message_bytes, [&] {
        spm = new kin_spm;
        std::string proto(static_cast<const char *>(model), bytes);
        /* protobuf merges repeated messages: a second normalizer_spec (field 3) holding only
         * add_dummy_prefix = false (its field 3) */
        if (!dummy_prefix)
            proto += std::string("\x1a\x02\x18\x00", 4);
        spm->byte_fallback = byte_fallback;
        return spm->processor.LoadFromSerializedProto(proto);
    });
    if (code != KIN_SPM_OK) {
        delete spm;
        spm = nullptr;
    }
    *out = spm;
    return code;
}

void kin_spm_destroy(kin_spm *spm)
{
    delete spm;
}

int kin_spm_size(const kin_spm *spm)
{
    return spm->processor.GetPieceSize();
}

int kin_spm_marker_id(const kin_spm *spm)
{
    try {
        return spm->processor.PieceToId("\xe2\x96\x81");
    } catch (...) {
        return -1;
    }
}

kin_spm_code kin_spm_encode(const kin_spm *spm, const char *text, size_t bytes, bool by_piece,
                            int skip, bool (*put)(void *user, int32_t id), void *user,
                            char *message, size_t message_bytes)
{
    return guarded(message, message_bytes, [&] {
        const absl::string_view view(text, bytes);
        std::vector<int> ids;
        if (by_piece) {
            std::vector<std::string> pieces;
            const auto status = spm->processor.Encode(view, &pieces);
            if (!status.ok())
                return status;
            for (const std::string &piece : pieces)
                ids.push_back(spm->processor.PieceToId(piece));
        } else {
            const auto status = spm->processor.Encode(view, &ids);
            if (!status.ok())
                return status;
        }
        if (!spm->byte_fallback)
            fuse_bytes(spm->processor, &ids);
        const size_t first = ids.size() >= static_cast<size_t>(skip) ? skip : 0;
        for (size_t i = first; i < ids.size(); i++)
            if (!put(user, ids[i]))
                throw std::bad_alloc();
        return sentencepiece::util::Status();
    });
}

kin_spm_code kin_spm_train(const char *const *sentences, int n, const char *const *args,
                           bool (*give)(void *user, const void *data, size_t bytes), void *user,
                           char *message, size_t message_bytes)
{
    return guarded(message, message_bytes, [&] {
        std::unordered_map<std::string, std::string> flags;
        for (; *args; args++) {
            const std::string pair(*args);
            const size_t eq = pair.find('=');
            flags[pair.substr(0, eq)] = pair.substr(eq + 1);
        }
        Sentences iterator(sentences, n);
        std::string model;
        const auto status = sentencepiece::SentencePieceTrainer::Train(flags, &iterator, &model);
        if (status.ok() && !give(user, model.data(), model.size()))
            throw std::bad_alloc();
        return status;
    });
}
