//! Dockerfiles of the kinds that people write, and how many stages and instructions each has.

/// One of them.
pub struct Sample {
    pub name: &'static str,
    pub text: &'static str,
    pub stages: usize,
    /// Without `FROM`, and without `ARG` before it.
    pub steps: usize,
}

macro_rules! corpus {
    ($($name:literal $stages:literal $steps:literal $text:literal)*) => {
        pub const ALL: &[Sample] = &[$(Sample {
            name: $name,
            text: $text,
            stages: $stages,
            steps: $steps,
        }),*];
    };
}

corpus! {
"scratch" 1 2 "FROM scratch\nCOPY hello /\nCMD [\"/hello\"]\n"

"go, two stages" 2 9 r#"# syntax=docker/dockerfile:1
FROM golang:1.23-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN --mount=type=cache,target=/go/pkg/mod go mod download
COPY . .
RUN --mount=type=cache,target=/go/pkg/mod \
    --mount=type=cache,target=/root/.cache/go-build \
    CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/app ./cmd/app

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/app /app
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["/app"]
"#

"go, for each platform" 2 5 r#"FROM --platform=$BUILDPLATFORM golang:1.23 AS build
ARG TARGETOS TARGETARCH
RUN --mount=target=. GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /out/app .
FROM scratch
COPY --from=build /out/app /bin/app
ENTRYPOINT ["/bin/app"]
LABEL org.opencontainers.image.title="app"
"#

"node, npm ci" 1 8 r#"FROM node:22-alpine
ENV NODE_ENV=production
WORKDIR /usr/src/app
COPY package*.json ./
RUN npm ci --omit=dev && npm cache clean --force
COPY --chown=node:node . .
USER node
EXPOSE 3000
CMD ["node", "server.js"]
"#

"node, built and served by nginx" 2 8 r#"FROM node:22 AS builder
WORKDIR /app
COPY package.json yarn.lock ./
RUN yarn install --frozen-lockfile
COPY . ./
RUN yarn build

FROM nginx:1.27-alpine AS final
COPY nginx.conf /etc/nginx/conf.d/default.conf
COPY --from=builder /app/dist /usr/share/nginx/html
HEALTHCHECK --interval=30s --timeout=3s CMD wget -q --spider http://localhost/ || exit 1
"#

"python, slim" 1 9 r#"FROM python:3.12-slim
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /app
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libpq-dev \
 && rm -rf /var/lib/apt/lists/*
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
RUN useradd -m -u 1001 app && chown -R app /app
USER app
CMD ["gunicorn", "--bind", "0.0.0.0:8000", "app.wsgi"]
"#

"python, virtual environment" 2 8 r#"FROM python:3.12 AS venv
RUN python -m venv /venv
ENV PATH="/venv/bin:$PATH"
COPY requirements.txt /tmp/
RUN pip install -r /tmp/requirements.txt
FROM python:3.12-slim
COPY --from=venv /venv /venv
ENV PATH=/venv/bin:$PATH VIRTUAL_ENV=/venv
ENTRYPOINT ["python"]
CMD ["-m", "app"]
"#

"rust, dependencies first" 2 10 r#"FROM rust:1.85 AS build
WORKDIR /src
RUN mkdir src && echo 'fn main() {}' > src/main.rs
COPY Cargo.toml Cargo.lock ./
RUN cargo build --release
COPY src ./src
RUN touch src/main.rs && cargo build --release
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /src/target/release/app /usr/local/bin/
STOPSIGNAL SIGINT
CMD ["app"]
"#

"java, layers of a jar" 2 8 r#"FROM eclipse-temurin:21-jdk AS layers
WORKDIR /work
ARG JAR_FILE=target/*.jar
COPY ${JAR_FILE} app.jar
RUN java -Djarmode=tools -jar app.jar extract --layers
FROM eclipse-temurin:21-jre
VOLUME /tmp
COPY --from=layers work/dependencies/ ./
COPY --from=layers work/application/ ./
ENTRYPOINT exec java $JAVA_OPTS -jar app.jar
"#

"maven" 2 4 r#"FROM maven:3.9 AS build
COPY pom.xml .
RUN --mount=type=cache,target=/root/.m2 mvn -B dependency:go-offline
FROM tomcat:10
COPY --from=build /target/*.war /usr/local/tomcat/webapps/ROOT.war
EXPOSE 8080/tcp
"#

"php with apache" 1 6 r#"FROM php:8.3-apache
RUN docker-php-ext-install pdo_mysql \
    && a2enmod rewrite headers
COPY --from=composer:2 /usr/bin/composer /usr/bin/composer
COPY ["my app/", "/var/www/html/"]
WORKDIR /var/www/html
RUN composer install --no-dev
EXPOSE 80
"#

"ruby on rails" 1 10 r#"ARG RUBY_VERSION=3.3.0
FROM registry.example.com/library/ruby:$RUBY_VERSION-slim
ARG BUNDLER_VERSION
WORKDIR /rails
ENV RAILS_ENV="production" \
    BUNDLE_DEPLOYMENT="1" \
    BUNDLE_PATH="/usr/local/bundle"
COPY Gemfile Gemfile.lock ./
RUN bundle install && \
    rm -rf ~/.bundle/ "${BUNDLE_PATH}"/ruby/*/cache
COPY . .
RUN bundle exec bootsnap precompile app/ lib/
ENTRYPOINT ["/rails/bin/docker-entrypoint"]
EXPOSE 3000
CMD ["./bin/rails", "server"]
"#

"nginx with a page" 1 1 "FROM nginx\nCOPY static-html-directory /usr/share/nginx/html\n"

"here-documents" 1 5 r#"FROM debian:12
RUN <<EOF
apt-get update
apt-get install -y curl
EOF
RUN <<EOT bash
  set -ex
  # a comment that stays
  echo "one \
two"
EOT
COPY <<index.html <<robots.txt /usr/share/nginx/html/
<h1>$TITLE</h1>
index.html
User-agent: *
robots.txt
COPY --chmod=755 <<-"EOF" /start.sh
	#!/bin/sh
	exec "$@"
	EOF
CMD ["/start.sh"]
"#

"a script for another interpreter" 1 2 r#"FROM python:3
RUN <<EOF
#!/usr/bin/env python
print("hello")
EOF
RUN cat <<A 3<<B && cat <&3
first
A
second
B
"#

"triggers" 1 5 r#"FROM node:22
WORKDIR /usr/src/app
ONBUILD COPY package.json /usr/src/app/
ONBUILD RUN npm install
ONBUILD COPY . /usr/src/app
CMD ["npm", "start"]
"#

"windows, with another escape" 1 5 r#"# escape=`
FROM mcr.microsoft.com/windows/servercore:ltsc2022
SHELL ["powershell", "-NoProfile", "-Command"]
RUN New-Item -ItemType Directory C:\Example
ADD Execute-MyCmdlet.ps1 c:\example\
RUN c:\example\Execute-MyCmdlet -sample 'hello world'; `
    Write-Host done
COPY testfile.txt c:\
"#

"comments everywhere" 1 3 r#"
# a comment before everything
   # indented

FROM debian:12
# between
RUN apt-get update && \
    # within
    apt-get install -y \
      curl \
  # at the beginning of a line
      git
ENV A=1 \
# not indented
    B=2

CMD ["bash"]
# at the end"#

"odd quoting" 1 8 r#"FROM busybox
ENV A="a b" B='c d' C=e\ f D="g\"h" E='i"j' F="k'l"
ENV old style "quotes stay" here
LABEL description="This text illustrates \
that label-values can span multiple lines."
LABEL "com.example.vendor"="ACME Incorporated" multi.label1="value1" other='value3'
RUN echo "it's" 'a "test"' \"x\" $A ${B:-none} \$HOME
RUN ["sh", "-c", "echo \"hello\" && echo 'x'"]
CMD echo [not json]
ENTRYPOINT [ "sh", "-c" ]
"#

"lower case" 2 4 "from alpine as a\nrun echo x\ncopy . /x\nfrom alpine\ncopy --from=a /x /y\ncmd [\"/y\"]\n"

"variables of all kinds" 1 9 r#"ARG VERSION=12 DIST=debian
ARG FULL=${DIST:-ubuntu}:${VERSION}
FROM ${FULL}
ARG VERSION
ARG PREFIX=/usr/local
ENV FOO=/bar/${VERSION:+versioned}
WORKDIR ${FOO}
ADD . $FOO
COPY \$FOO /quux
EXPOSE ${PORT:-8080}/tcp
USER ${USER_ID:-1000}:${GROUP_ID:-1000}
STOPSIGNAL ${SIGNAL:-SIGTERM}
"#

"patterns in variables" 1 3 r#"FROM alpine
ARG TAG=v1.2.3-rc1
ENV SHORT=${TAG#v} MAJOR=${TAG%%.*} NAME=${TAG/-/_} ALL=${TAG//./-}
RUN echo $SHORT
"#

"mounts of all kinds" 1 6 r#"FROM debian:12
RUN --mount=type=bind,source=.,target=/src,rw make -C /src
RUN --mount=type=cache,id=apt,target=/var/cache/apt,sharing=locked apt-get update
RUN --mount=type=tmpfs,target=/tmp,size=64m true
RUN --mount=type=secret,id=token,target=/run/token,required=true,mode=0400 cat /run/token
RUN --mount=type=secret,id=aws,env=AWS_KEY env
RUN --mount=type=ssh git clone git@example.com:x/y
"#

"networks of steps" 1 3 "FROM alpine\nRUN --network=none true\nRUN --network=host ip a\nRUN --network=default true\n"

"debian packages" 1 3 r#"FROM debian:bookworm-slim
ARG DEBIAN_FRONTEND=noninteractive
RUN set -eux; \
    apt-get update; \
    apt-get install -y --no-install-recommends \
        ca-certificates \
        netbase \
        tzdata \
    ; \
	rm -rf /var/lib/apt/lists/*
RUN { echo 'install: --no-document'; echo 'update: --no-document'; } >> /etc/gemrc
"#

"a database" 1 12 r#"FROM debian:bookworm-slim
RUN set -eux; groupadd -r postgres --gid=999; useradd -r -g postgres --uid=999 postgres
ENV GOSU_VERSION 1.17
ENV LANG en_US.utf8
RUN mkdir /docker-entrypoint-initdb.d
ENV PG_MAJOR 16
ENV PATH $PATH:/usr/lib/postgresql/$PG_MAJOR/bin
ENV PGDATA /var/lib/postgresql/data
VOLUME /var/lib/postgresql/data
COPY docker-entrypoint.sh docker-ensure-initdb.sh /usr/local/bin/
ENTRYPOINT ["docker-entrypoint.sh"]
STOPSIGNAL SIGINT
EXPOSE 5432
"#

"a cache server" 1 6 r#"FROM alpine:3.20
RUN addgroup -S -g 1000 redis && adduser -S -G redis -u 999 redis
RUN mkdir /data && chown redis:redis /data
VOLUME /data
WORKDIR /data
EXPOSE 6379
CMD ["redis-server"]
"#

"static site by hugo" 2 3 "FROM klakegg/hugo:ext AS site\nCOPY . /src\nRUN hugo --minify\nFROM nginx:alpine\nCOPY --from=site /src/public/ /usr/share/nginx/html/\n"

"stages by number" 3 4 "FROM alpine\nRUN touch /a\nFROM alpine\nRUN touch /b\nFROM scratch\nCOPY --from=0 /a /a\nCOPY --from=1 /b /b\n"

"a stage for tests" 4 8 r#"FROM golang:1.23 AS base
WORKDIR /src
COPY . .
FROM base AS lint
RUN go vet ./...
FROM base AS test
RUN go test ./...
FROM base AS build
ARG VERSION=dev
RUN go build -ldflags "-X main.version=${VERSION}" -o /app
LABEL version=$VERSION
CMD ["/app"]
"#

"links and parents" 1 4 r#"FROM alpine
COPY --link --chown=1000:1000 a /a/
COPY --parents ./x/a.txt ./y/a.txt /parents/
COPY --exclude=*.md --exclude=docs/** . /src/
COPY --chmod=u=rwX,go=rX scripts/ /scripts/
"#

"archives" 1 3 "FROM scratch\nADD rootfs.tar.xz /\nADD --checksum=sha256:24454f830cdb571e2c4ad15481119c43b3cafd48dd869a9b2945d1036d1dc68d --unpack=false x.tar.gz /\nCMD [\"/bin/bash\"]\n"

"health and signals" 1 3 "FROM nginx\nHEALTHCHECK --interval=5m --timeout=3s --start-period=10s --start-interval=1s --retries=2 CMD [\"curl\", \"-f\", \"http://localhost/\"]\nSTOPSIGNAL SIGQUIT\nHEALTHCHECK NONE\n"

"shells" 1 4 "FROM debian\nSHELL [\"/bin/bash\", \"-o\", \"pipefail\", \"-c\"]\nRUN wget -O - https://some.site | wc -l > /number\nSHELL [\"/bin/sh\", \"-c\"]\nRUN true\n"

"carriage returns" 1 2 "FROM alpine\r\nRUN echo a \\\r\n  && echo b\r\nCMD [\"sh\"]\r\n"

"no newline at the end" 1 1 "FROM alpine\nRUN echo end \\"

"tabs and spaces" 1 2 "FROM\talpine\n\tRUN\t  echo x\nENV   A=1\t B=2  \n"

"unicode" 1 3 "FROM alpine\nLABEL greeting=\"Grüße, 世界\"\nRUN echo 'ä ö ü'\nCOPY ünïcode /ü/\n"

"empty command" 1 2 "FROM debian\nENTRYPOINT []\nCMD []\n"

"a maintainer" 1 2 "FROM debian\nMAINTAINER Someone <someone@example.com>\nRUN true\n"

"proxies" 1 2 "FROM debian\nARG HTTP_PROXY\nRUN curl http://example.com\n"

"digests" 1 1 "FROM debian@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef AS base\nRUN true\n"

"a long pipeline of continuations" 1 1 r#"FROM alpine
RUN apk add --no-cache --virtual .build-deps \
        gcc \
        libc-dev \
        make \
    && ./configure \
    && make -j"$(nproc)" \
    && make install \
    && apk del .build-deps
"#

"dotnet" 2 7 r#"FROM mcr.microsoft.com/dotnet/sdk:8.0 AS build
WORKDIR /source
COPY *.csproj .
RUN dotnet restore
COPY . .
RUN dotnet publish -c release -o /app --no-restore
FROM mcr.microsoft.com/dotnet/aspnet:8.0
COPY --from=build /app .
ENTRYPOINT ["dotnet", "app.dll"]
"#

"elixir" 2 8 r#"ARG ELIXIR=1.16
FROM elixir:${ELIXIR}-alpine AS build
ENV MIX_ENV=prod
COPY mix.exs mix.lock ./
RUN mix do deps.get --only $MIX_ENV, deps.compile
COPY lib lib
RUN mix release
FROM alpine:3.19
COPY --from=build --chown=nobody:root /app/_build/prod/rel/app ./
USER nobody
CMD ["/bin/sh", "-c", "bin/app start"]
"#

"c with a cross compiler" 2 5 r#"FROM --platform=$BUILDPLATFORM tonistiigi/xx AS xx
FROM --platform=$BUILDPLATFORM alpine AS build
COPY --from=xx / /
ARG TARGETPLATFORM
RUN xx-apk add gcc musl-dev
COPY hello.c .
RUN xx-clang -o hello hello.c && xx-verify hello
"#

"apt with caches" 1 2 r#"FROM ubuntu
RUN rm -f /etc/apt/apt.conf.d/docker-clean; echo 'Binary::apt::APT::Keep-Downloaded-Packages "true";' > /etc/apt/apt.conf.d/keep-cache
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \
  --mount=type=cache,target=/var/lib/apt,sharing=locked \
  apt update && apt-get --no-install-recommends install -y gcc
"#

"a reverse proxy" 1 3 "FROM haproxy:2.9\nCOPY haproxy.cfg /usr/local/etc/haproxy/haproxy.cfg\nUSER root\nEXPOSE 80 443 8404\n"

"a worker with cron" 1 5 r#"FROM debian:12
RUN apt-get update && apt-get -y install cron
COPY crontab /etc/cron.d/job
RUN chmod 0644 /etc/cron.d/job && crontab /etc/cron.d/job
RUN touch /var/log/cron.log
CMD cron && tail -f /var/log/cron.log
"#

"perl" 1 4 "FROM perl:5.38\nWORKDIR /usr/src/myapp\nCOPY cpanfile .\nRUN cpanm --installdeps --notest .\nCMD [ \"perl\", \"./your-daemon-or-script.pl\" ]\n"

"gpu" 1 3 "FROM nvidia/cuda:12.4.0-runtime-ubuntu22.04\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nRUN nvidia-smi || true\nCMD [\"python3\"]\n"

"terraform" 1 3 "FROM alpine:3.20\nARG TF=1.9.0\nADD https://releases.example.com/terraform/${TF}/terraform_${TF}_linux_amd64.zip /tmp/tf.zip\nENTRYPOINT [\"terraform\"]\n"

"a jump host" 1 4 "FROM alpine\nRUN apk add --no-cache openssh && ssh-keygen -A\nRUN echo 'root:root' | chpasswd\nEXPOSE 22\nCMD [\"/usr/sbin/sshd\", \"-D\", \"-e\"]\n"

"git from a build" 1 2 "FROM alpine\nADD --keep-git-dir=true https://github.com/moby/buildkit.git#v0.10.1 /buildkit\nADD git@git.example.com:foo/bar.git /bar\n"

"checks left out" 1 1 "# check=skip=JSONArgsRecommended;error=true\nFROM alpine\nCMD echo hi\n"

"directives together" 1 1 "#syntax=docker/dockerfile:1.7-labs\n#escape=\\\nFROM alpine\nRUN true\n"

"a byte order mark" 1 1 "\u{feff}FROM alpine\nRUN true\n"

"trailing spaces behind an escape" 1 1 "FROM alpine\nRUN a \\  \n  b\n"

"arguments with defaults in quotes" 1 3 "FROM alpine\nARG A=\"x y\"\nARG B='$A' C=\\$A\nRUN echo $A\n"

"empty lines within" 1 1 "FROM alpine\nRUN a && \\\n\n  b\n"

"volumes" 1 2 "FROM alpine\nVOLUME [\"/data\", \"/log files\"]\nVOLUME /a /b /c\n"
}

#[test]
fn every_sample_is_read() {
    assert!(ALL.len() >= 60, "{} samples", ALL.len());
    for sample in ALL {
        let read = super::Dockerfile::parse(sample.name, sample.text);
        let file = read.unwrap_or_else(|error| panic!("{}\n{error}", sample.name));
        let steps: usize = file.stages.iter().map(|stage| stage.steps.len()).sum();
        let found = (file.stages.len(), steps);
        assert_eq!(found, (sample.stages, sample.steps), "{}", sample.name);
    }
}
