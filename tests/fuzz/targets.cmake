# The fuzzers, one call for each: targets/NAME_fuzz.cpp, the sources of src/ that it needs besides those of fuzz_base
# (core/json.cpp, core/utf8.cpp, core/foreign_content.cpp, io/files.cpp), and the folders of tests/ that hold its seeds.
diffusers_fuzz_target(safetensors SOURCES io/safetensors_header.cpp CORPUS fuzz/corpus/safetensors)
diffusers_fuzz_target(shard_index SOURCES io/shard_index.cpp CORPUS fuzz/corpus/shard_index DICTIONARY json.dict)
diffusers_fuzz_target(config CORPUS fuzz/corpus/config DICTIONARY json.dict)
diffusers_fuzz_target(vocabulary SOURCES text/byte_pair_encoding.cpp text/unicode.cpp text/vocabulary.cpp
                      CORPUS fuzz/corpus/vocabulary DICTIONARY json.dict LIBRARIES utf8proc::utf8proc)
diffusers_fuzz_target(merges SOURCES text/unicode.cpp text/vocabulary.cpp CORPUS fuzz/corpus/merges
                      LIBRARIES utf8proc::utf8proc)
diffusers_fuzz_target(tokenizer SOURCES text/added_vocabulary.cpp text/byte_pair_encoding.cpp text/clip_words.cpp
                                        text/unicode.cpp text/vocabulary.cpp
                      CORPUS fuzz/corpus/tokenizer DICTIONARY json.dict LIBRARIES utf8proc::utf8proc)
diffusers_fuzz_target(idx SOURCES data/idx_reader.cpp CORPUS fuzz/corpus/idx LIBRARIES ZLIB::ZLIB)
diffusers_fuzz_target(metadata SOURCES data/metadata_reader.cpp CORPUS fuzz/corpus/metadata DICTIONARY json.dict)
diffusers_fuzz_target(tar SOURCES data/tar_samples.cpp io/tar_reader.cpp CORPUS fuzz/corpus/tar
                      LIBRARIES LibArchive::LibArchive)
diffusers_fuzz_target(png SOURCES io/png.cpp io/jpeg.cpp CORPUS golden/io/images fuzz/corpus/png LIBRARIES PNG::PNG
                                                                                             JPEG::JPEG)
diffusers_fuzz_target(jpeg SOURCES io/png.cpp io/jpeg.cpp CORPUS golden/io/images fuzz/corpus/jpeg
                      LIBRARIES PNG::PNG JPEG::JPEG)
