# syntax=docker/dockerfile:1
# managed by lightship: rendered from a spec by `lightship deploy`; changes are lost at the next rendering
# One variant's files. The build context is its folder; `SHA256SUMS` lets whoever copies them check the copy.
FROM busybox:1.37.0 AS sums
COPY . /models
WORKDIR /models
RUN find . -type f ! -name SHA256SUMS -exec sha256sum {} + > /unsorted && sort -k 2 -o /SHA256SUMS /unsorted

FROM busybox:1.37.0
COPY --chmod=a+rX . /models
COPY --from=sums /SHA256SUMS /models/SHA256SUMS
USER 2000:2000
