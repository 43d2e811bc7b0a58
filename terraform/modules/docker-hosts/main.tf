locals {
  config = yamlencode({
    project  = var.project_id
    database = var.database
    pool     = var.pool
    network  = { range = var.runner_range }
    proxy    = { log_file = "/var/log/runyard/connections.log" }
  })
}

resource "google_compute_instance_template" "this" {
  project      = var.project_id
  region       = var.region
  name_prefix  = "${var.name}-"
  description  = "Docker host of pool ${var.pool}"
  machine_type = var.machine_type
  labels       = var.labels

  disk {
    source_image = var.image
    boot         = true
    auto_delete  = true
    disk_type    = "pd-ssd"
    disk_size_gb = var.disk_gb
  }

  # No access_config: no external address.
  network_interface {
    subnetwork = var.subnetwork
  }

  # Firestore and the one bucket are what its roles allow; the scope would only say the same again, less exactly.
  service_account {
    email  = var.service_account_email
    scopes = ["cloud-platform"]
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  metadata = {
    block-project-ssh-keys = "true"
    enable-oslogin         = "TRUE"
    startup-script = templatefile("${path.module}/start.sh", {
      bucket       = var.bucket
      wheel        = var.wheel
      requirements = var.requirements
      config       = local.config
      unit         = file("${path.module}/runyard.service")
    })
  }

  lifecycle {
    create_before_destroy = true
  }
}

resource "google_compute_region_instance_group_manager" "this" {
  project                   = var.project_id
  region                    = var.region
  name                      = var.name
  base_instance_name        = var.name
  target_size               = var.hosts
  distribution_policy_zones = length(var.zones) == 0 ? null : var.zones

  version {
    instance_template = google_compute_instance_template.this.self_link_unique
  }

  # A host is never replaced under its running jobs: drain it, then recreate it, one after the other.
  update_policy {
    type                         = "OPPORTUNISTIC"
    minimal_action               = "REPLACE"
    instance_redistribution_type = "NONE"
    max_surge_fixed              = length(var.zones) == 0 ? 3 : length(var.zones)
    max_unavailable_fixed        = 0
  }
}
