# SPDX-License-Identifier: Apache-2.0
# The SPIR-V files of a folder as one C table (dispatch/gpu.h, struct mb_gpu_module): cmake -DFOLDER=... -DOUT=... -P embed_words.cmake
# Words are little-endian in the files and numbers in C, so the table is right for every host.
cmake_minimum_required(VERSION 3.22)
file(GLOB paths ${FOLDER}/*.spv)
list(SORT paths)
set(rows)
file(WRITE ${OUT} "#include \"dispatch/gpu.h\"\n\n")
foreach(path IN LISTS paths)
  get_filename_component(name ${path} NAME_WE)
  file(READ ${path} words HEX)
  string(REGEX REPLACE "(..)(..)(..)(..)" "0x\\4\\3\\2\\1," words "${words}")
  file(APPEND ${OUT} "static const uint32_t ${name}[] = {${words}};\n")
  string(APPEND rows "    {\"${name}\", ${name}, sizeof ${name}},\n")
endforeach()
file(APPEND ${OUT} "const struct mb_gpu_module mb_gpu_modules[] = {\n${rows}    {NULL, NULL, 0},\n};\n")
