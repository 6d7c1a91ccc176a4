# One image for every role; docker-compose.yaml picks the command.
FROM python:3.12-slim-bookworm

# libgomp1: LightGBM's wheel expects the OpenMP runtime of the system. restic: backups.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgomp1 restic tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --create-home --uid 50000 airflow

WORKDIR /opt/airflow
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN python -m pip install --no-cache-dir --require-hashes -r requirements.lock
COPY include include
COPY plugins plugins
COPY dags dags
COPY expectations expectations
COPY deploy deploy
COPY deploy/airflow_local_settings.py config/airflow_local_settings.py
RUN python -m pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && mkdir -p /var/lib/ninelives /opt/airflow/logs && chown -R airflow /var/lib/ninelives /opt/airflow/logs

USER airflow
ENV AIRFLOW_HOME=/opt/airflow \
    PYTHONPATH=/opt/airflow/include:/opt/airflow/plugins \
    NINELIVES_HOME=/var/lib/ninelives \
    NINELIVES_ESTATE=/opt/airflow/include/estates/demo/estate.yaml \
    AIRFLOW__CORE__DAGS_FOLDER=/opt/airflow/dags \
    AIRFLOW__CORE__PLUGINS_FOLDER=/opt/airflow/plugins \
    AIRFLOW__SCHEDULER__MAX_DAGRUNS_PER_LOOP_TO_SCHEDULE=200
ENTRYPOINT ["tini", "--"]
CMD ["airflow", "version"]
